"""HTML pages that open from disk: one template, the project's style, pictures inside, no request anywhere."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from sunfish.printable import printable

STYLE = Path(__file__).with_name("page.css")
MISSING = "-"


def render(template: Path, pictures_dir: Path, **values: Any) -> str:
    """Return a page; everything a template prints is escaped, control characters included.

    In the template `name|picture` is a picture of that folder, `number|show(form)` a number for people."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def finalize(value: Any) -> Any:
        is_text = isinstance(value, str) and not isinstance(value, Markup)
        return printable(value, newlines=True) if is_text else value

    environment = Environment(
        loader=FileSystemLoader(template.parent), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, finalize=finalize,
    )  # fmt: skip
    environment.filters |= {"show": show, "picture": lambda name: embed(pictures_dir / name)}
    style = Markup(STYLE.read_text(encoding="utf-8"))
    return environment.get_template(template.name).render(style=style, **values)


def show(value: float | None, form: str) -> str:
    """Return a number as people read it; `form` is percent, count, seconds or plain."""
    if value is None:
        return MISSING
    if form == "percent":
        return f"{100 * value:.1f} %"
    if form == "count":
        return f"{value:,.0f}"
    if form == "seconds":
        return f"{1000 * value:,.1f} ms" if value < 1 else f"{value:,.2f} s"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:,.2f}"


def embed(path: Path) -> str:
    """Return a picture as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
