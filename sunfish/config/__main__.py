"""python -m sunfish.config: write params.yaml from conf/, or check it."""

from sunfish.config.compose import main

if __name__ == "__main__":
    main()
