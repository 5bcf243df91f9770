"""The README's animation, made from the page: docs/page.webp.

python -m benchmarks.page_picture [FOLDER]

Needs what `make page` and tests/test_page.py need."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from sunfish.runtime.serve import PAGE
from tests.test_page import CHROMIUM, npx, served

OUT = Path(__file__).parents[1] / "docs" / "page.webp"
PAUSES = {"noise": 900, "draft": 250, "check": 800, "correction": 500}  # milliseconds
LAST, MARGIN = 4000, 24


def framed(picture: Image.Image) -> Image.Image:
    """Return a picture with a margin of its own ground."""
    return ImageOps.expand(picture, MARGIN, picture.getpixel((0, picture.height // 50)))


def main(folder: Path) -> None:
    """Let the page show each step, and put the pictures together."""
    with tempfile.TemporaryDirectory() as place, served(folder, PAGE) as address:
        environment = {"SUNFISH_PAGE": address, "SUNFISH_PICTURES": place, "CHROMIUM": str(CHROMIUM)}
        npx("vitest", "run", "tests/picture.test.ts", SUNFISH_FIXTURES="", **environment)
        files = sorted(Path(place).glob("*.png"))
        pictures = [framed(Image.open(file).convert("RGB")) for file in files]
    pauses = [PAUSES[file.stem.split("-")[1]] for file in files]
    pauses[-1] = LAST
    first, *rest = pictures
    first.save(OUT, save_all=True, append_images=rest, duration=pauses, loop=0, quality=60, method=4)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else Path("sunfish/shipped"))
