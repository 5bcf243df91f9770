"""`python -m sunfish` is the command `sunfish`."""

from sunfish.runtime.cli import main

if __name__ == "__main__":
    main(prog_name="python -m sunfish")
