"""The report is one page that needs nothing else, and nothing in it can break out of its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sunfish.errors import UserError
from sunfish.evaluation.report import Inputs, write_report
from sunfish.files import write_json
from sunfish.page import show
from sunfish.pictures import picture
from sunfish.printable import printable
from tests.builders import CHECKED, PLAIN

HOSTILE = "<script>alert(1)</script> & \x1b[31mred \u202eback $x$"
NUMBERS = {
    "sentences_valid": 0.987, "stories_consistent": 0.875, "entropy_corpus_nats": 4.3, "unique": 1.0,
    "count": 8, "my_metric": 0.25,
}  # fmt: skip
COST = {"calls_per_text": 21.0, "corrected_per_text": 3.5, "seconds_per_text": 0.02}
LIKELIHOOD = {
    "nats_per_token": 0.9, "nats_per_token_standard_error": 0.01, "perplexity": 2.46, "bits_per_byte": 0.4,
    "rows": 16, "levels_per_row": 2, "ratio_to_entropy": 1.02, "excess_nats_per_row": 0.5,
    "excess_nats_per_row_standard_error": 0.1, "entropy_nats_per_row": 27.9,
}  # fmt: skip
FILLED = {
    "given_kept": 1.0, "unknown_as_written": 0.5, "unknown_per_text": 8.0, "rows": 8,
    "stories_consistent": 0.9,
}  # fmt: skip
PICTURES = ("loss_curve", "loss_by_level", "quality_by_calls")


def results_of(checked: bool) -> dict[str, Any]:
    sampler, name = (CHECKED, "ddim-4-checked") if checked else (PLAIN, "ddim-4")
    texts = NUMBERS | COST | {"tokens_per_sample": 34.0}
    frame = {
        "kind": "check", "round": 0, "step": 0, "tokens": ["once", HOSTILE], "confidence": [100, 50],
        "known": [True, True], "struck": ["", "bad"],
    }  # fmt: skip
    return {
        "about": {
            "model": {"name": "mini"}, "parameters": 500_000, "can_check": checked, "model_sha256": "a" * 64,
            "shards_sha256": "b" * 64, "vocab_size": 567, "train_tokens": 1_000, "held_out_rows": 10,
            "sampler": sampler.to_dict(), "sampler_name": name, "grammar": True, "judge": None, "seed": 0,
            "device": "cpu", "threads": 2, "date": "2026-11-30",
        },
        "bound": LIKELIHOOD, **({"causal": LIKELIHOOD} if checked else {}), "headline": texts, "draft": texts,
        "real_text": NUMBERS, "samplers": {"ddim-10": texts}, "plain_by_steps": {"ddim-4": texts},
        "checked_by_steps": {"ddim-4-checked": texts} if checked else {},
        "speed": {at: {"seconds": 0.1, "tokens_per_second": 640.0, "runs": 3} for at in (name, "ddim-10")},
        "infilling": {at: FILLED | COST for at in ("gap", "beginning")}, "gap_bound": LIKELIHOOD,
        "samples": [{"text": HOSTILE, "draft": "two\nlines"}], "trajectory": [frame],
    }  # fmt: skip


def page_of(params: dict[str, Any], folder: Path, results: dict[str, Any]) -> str:
    (folder / "plots").mkdir(exist_ok=True)
    for name in PICTURES:
        picture(folder / "plots" / f"{name}.png", lambda axes: axes.plot([1, 2]), name)
    write_json(folder / "r.json", results)
    write_json(folder / "pretrain.json", {"steps": 12})
    inputs = Inputs(folder / "r.json", folder / "pretrain.json", folder / "plots")
    settings = {"model": params["model"], "data": params["data"]}
    write_report(folder / "report.html", inputs, params["data"], settings)
    return (folder / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Tags that are open, and what could load something or run."""

    VOID, LOOSE = ("meta", "img", "br"), ("p", "tr", "td", "th", "html")

    def __init__(self) -> None:
        super().__init__()
        self.open, self.tags, self.loads = list[str](), set[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for key, value in attrs if key in ("src", "href", "srcset", "action")]
        if tag not in (*self.VOID, *self.LOOSE):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.LOOSE:
            assert self.open.pop() == tag


@pytest.mark.parametrize("checked", [True, False])
def test_the_page_needs_nothing_else(params: dict[str, Any], tmp_path: Path, checked: bool) -> None:
    page, reader = page_of(params, tmp_path, results_of(checked)), Reader()
    reader.feed(page)
    assert reader.open == [] and not reader.tags & {"script", "link", "iframe", "object"}
    assert len(reader.loads) == len(PICTURES)
    assert all(value.startswith("data:image/png;base64,") for value in reader.loads)
    assert not re.search(r"https?:|url\(|@import", page)
    assert "prefers-color-scheme: dark" in page and "width=device-width" in page
    assert "87.5 %" in page and "20.0 ms" in page and "my metric" in page
    assert ("draft alone" in page) == checked and ("likelihood of the check" in page) == checked


def test_nothing_breaks_out_of_its_place(params: dict[str, Any], tmp_path: Path) -> None:
    page = page_of(params, tmp_path, results_of(True))
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "\x1b" not in page and "\\x1b[31mred" in page
    assert "\u202e" not in page and "\\u202eback" in page
    assert "two\nlines" in page and "<del>bad</del> <ins>" in page


def test_results_of_another_version_are_refused(params: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the evaluate stage again"):
        page_of(params, tmp_path, {"metrics": {}})


def test_numbers_for_people() -> None:
    shown = [show(0.5, "percent"), show(0.0123, "seconds"), show(12.5, "seconds"), show(1234.4, "count")]
    assert shown == ["50.0 %", "12.3 ms", "12.50 s", "1,234"]
    assert [show(value, "plain") for value in (0.12345, 2.5, None)] == ["0.123", "2.50", "-"]


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable("a\tb\nc\x00\ud800é三") == "a\\tb\\nc\\x00\\ud800é三"
    assert printable("a\nb", newlines=True) == "a\nb"
    assert printable("red \x1b[31m\x9b\u202eabc größe 数据") == "red \\x1b[31m\\x9b\\u202eabc größe 数据"
