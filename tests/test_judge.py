"""A judge must find texts exactly as likely as its model does, one by one; and say what is wrong when it
cannot be had.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pipelines.baselines.objective import row_nats
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.evaluate import Places, evaluate
from sunfish.evaluation.judge import measure_mauve, read_judge
from sunfish.files import read_json
from sunfish.model.baseline import Baseline, make_baseline, write_baseline
from sunfish.text.shards import Shards
from tests.builders import OFF
from tests.test_evaluation import FILES
from tests.test_model import SMALL

CPU = torch.device("cpu")
WORDS = ["[BOS]", "a", "dog", "ran", "home", "and", "slept"]


def make_judge(
    folder: Path, shards: Shards, kind: str = "autoregressive", tokenizer: str | None = None
) -> Baseline:
    """Write a twin of which every weight says something."""
    twin = make_baseline(SMALL, shards.vocab_size, kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    lengths = RowLengths.count([12, 16], 8)
    write_baseline(
        folder, twin, dict(twin.named_parameters()), lengths, tokenizer or shards.manifest["tokenizer_sha256"]
    )
    return twin.eval()


def test_a_twins_perplexity_is_that_of_its_likelihoods_one_by_one(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of all lengths, few at once, so that they are filled up; one fills its row and has no end token
    behind it.
    """
    monkeypatch.setattr("sunfish.evaluation.judge.LOGITS_TOGETHER", 60 * shards.vocab_size)
    twin, rng, end = make_judge(tmp_path / "twin", shards), np.random.default_rng(0), shards.end_id
    texts = [
        [token + (token >= end) for token in rng.integers(shards.vocab_size - 1, size=size).tolist()]
        for size in (5, 0, 15, 9, 9, 16)
    ]
    judged = read_judge(str(tmp_path / "twin"), shards, CPU).read(texts, [])
    with torch.no_grad():
        rows = [[*text, end][:16] for text in texts]
        nats = sum(float(row_nats(twin, np.array([row]), end, rng)) for row in rows)
        last = twin.hidden(torch.tensor([[twin.special, *rows[3]]]))[0, -1].double().numpy()
    assert judged.perplexity == pytest.approx(math.exp(nats / sum(map(len, rows))), rel=1e-5)
    assert judged.features.shape == (6, SMALL.width) and judged.features[3] == pytest.approx(last, abs=1e-5)


@pytest.fixture(scope="module")
def causal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A causal model and its tokenizer, as transformers saves them."""
    folder = tmp_path_factory.mktemp("causal")
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, bos_token="[BOS]").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(WORDS), n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0)
    ).save_pretrained(folder)
    return folder


def test_a_causal_models_perplexity_is_that_of_its_own_loss(shards: Shards, causal: Path) -> None:
    texts = ["a dog ran", "a dog ran home and slept", "slept", " ".join(["dog"] * 20)]
    judged = read_judge(str(causal), shards, CPU).read([[]] * 4, texts)
    model, nats, count = GPT2LMHeadModel.from_pretrained(causal).eval(), 0.0, 0
    for text in texts:
        ids = torch.tensor([[0, *(WORDS.index(word) for word in text.split())][:8]])  # it has eight positions
        nats += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert judged.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert judged.features.shape == (4, 16)


def test_with_a_judge_an_evaluation_tells_perplexity_and_mauve(
    params: dict, trained: Path, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("judge", "mauve"):
        monkeypatch.setattr(f"sunfish.evaluation.{module}.FEWEST", 20)
    make_judge(tmp_path / "twin", shards)
    section = dataclasses.replace(params["evaluate"], judge=str(tmp_path / "twin"), num_samples=25)
    places = Places(
        trained / "denoiser",
        shards.folder,
        trained / "curve.csv",
        **{name: tmp_path / file for name, file in FILES.items()},
    )
    evaluate(params["data"], section, OFF, places)
    metrics = read_json(places.metrics)
    for part in (metrics["samples"], metrics["real_text"]):
        assert part["judged_perplexity"] > 1.0 and 0.0 < part["mauve"] <= 1.0
    many = dataclasses.replace(section, num_samples=500)
    subject = EvalContext.read(trained / "denoiser", shards.folder, params["data"], many).with_judge()
    half, real = len(subject.held_out) // 2, subject.real_texts(500)
    read = [subject.yardstick.judge.read(ids, []) for ids in (real.ids[:half], real.ids[half : 2 * half])]
    assert subject.num_real == half  # real texts are held against other ones, never themselves
    assert subject.judge(subject.real_texts(half), near=True).items() >= measure_mauve(*read).items()
    assert metrics["how"]["judge"] == section.judge and metrics["frontier"]["3"]["judged_perplexity"] > 1.0
    assert "perplexity by the judge" in places.report.read_text(encoding="utf-8")


def test_what_is_no_judge_is_refused(shards: Shards, causal: Path, tmp_path: Path) -> None:
    make_judge(tmp_path / "masked", shards, "masked")
    with pytest.raises(UserError, match="is the masked twin, which knows no text's likelihood"):
        read_judge(str(tmp_path / "masked"), shards, CPU)
    make_judge(tmp_path / "other", shards, tokenizer="0" * 64)
    with pytest.raises(UserError, match="was trained with another tokenizer than these shards"):
        read_judge(str(tmp_path / "other"), shards, CPU)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="is no twin that can be loaded"):
        read_judge(str(tmp_path / "other"), shards, CPU)


def test_a_judge_that_cannot_be_found_says_what_works_without_a_network(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("models/twins/nowhere/at-all", "nobody/no-such-model"):
        with pytest.raises(
            UserError,
            match=r"no such model here or on the Hugging Face Hub .* can be null, the folder of an autoregressive twin",
        ):
            read_judge(name, shards, CPU)


def test_too_few_texts_for_mauve_are_refused_before_anything_is_written(
    params: dict, trained: Path, shards: Shards
) -> None:
    for few, told in (
        (49, r"evaluate.num_samples = 49: .* needs 50 texts"),
        (500, r"the shards hold out \d+ rows: .* which needs 100"),
    ):
        section = dataclasses.replace(params["evaluate"], judge="gpt2-large", num_samples=few)
        with pytest.raises(UserError, match=told):
            EvalContext.read(trained / "denoiser", shards.folder, params["data"], section).with_judge()
