"""A judge must find texts exactly as likely as its model does, one by one; and say what is wrong when it
cannot be had.
"""

from __future__ import annotations

import dataclasses
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pipelines.baselines.loss import autoregressive_nats
from sunfish.diffusion.lengths import RowLengths
from sunfish.errors import UserError
from sunfish.evaluation.context import EvalContext
from sunfish.evaluation.judge import measure_mauve, read_judge
from sunfish.evaluation.metrics import measure
from sunfish.model.baseline import FORMAT, Baseline, BaselineConfig, make_baseline
from sunfish.model.pretrained import write_folder
from sunfish.text.shards import Shards
from tests.builders import SMALL

CPU = torch.device("cpu")
WORDS = ["[BOS]", "a", "dog", "ran", "home", "and", "slept"]


def make_judge(
    folder: Path, shards: Shards, kind: Any = "autoregressive", tokenizer: Path | None = None
) -> Baseline:
    """Write a baseline of which every weight says something."""
    baseline = make_baseline(SMALL, shards.vocab_size, kind, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in baseline.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    lengths = RowLengths.count([12, 16], 8)
    config = BaselineConfig(FORMAT, SMALL, shards.vocab_size, lengths, shards.end_id, False, kind)
    write_folder(folder, config, dict(baseline.named_parameters()), tokenizer or shards.folder)
    return baseline.eval()


@torch.no_grad()
def test_a_baselines_perplexity_is_that_of_its_likelihoods_one_by_one(
    shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of all lengths, few at once; one fills its row and has no end token behind it."""
    monkeypatch.setattr("sunfish.evaluation.judge.MAX_LOGITS", 40 * shards.vocab_size)
    baseline, rng, end = make_judge(tmp_path / "judge", shards), np.random.default_rng(0), shards.end_id
    texts = [
        [token + (token >= end) for token in rng.integers(shards.vocab_size - 1, size=size).tolist()]
        for size in (5, 0, 15, 9, 9, 16)
    ]
    judged = read_judge(str(tmp_path / "judge"), shards, CPU).read(texts, [])
    assert judged.nats @ [min(len(text) + 1, 16) for text in texts] == pytest.approx(
        math.log(judged.perplexity) * sum(min(len(text) + 1, 16) for text in texts)
    )
    nats, count = 0.0, 0
    for text in texts:
        length, size = (12 if len(text) < 12 else 16), min(len(text) + 1, 16)
        row = torch.tensor([(text + [end] * 16)[:length]])
        chosen = baseline.next_token_logits(row).log_softmax(-1).gather(2, row[..., None])
        nats, count = nats - float(chosen[0, :size].sum()), count + size
    assert judged.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    last = baseline.hidden(torch.tensor([[*texts[3], *[end] * 3]]))[0, 9].double().numpy()
    assert judged.features.shape == (6, SMALL.width) and judged.features[3] == pytest.approx(last, abs=1e-5)
    whole = torch.tensor([texts[5]])
    alone = read_judge(str(tmp_path / "judge"), shards, CPU).read([texts[5]], [])
    assert math.log(alone.perplexity) * 16 == pytest.approx(
        float(autoregressive_nats(baseline, whole)), rel=1e-5
    )


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
        nats += model(ids, labels=ids).loss.item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    assert judged.perplexity == pytest.approx(math.exp(nats / count), rel=1e-5)
    assert judged.features.shape == (4, 16)


def test_with_a_judge_texts_have_a_perplexity_and_a_mauve(
    params: dict[str, Any], trained: Path, shards: Shards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("judge", "mauve"):
        monkeypatch.setattr(f"sunfish.evaluation.{module}.FEWEST", 20)
    make_judge(tmp_path / "judge", shards)
    config = dataclasses.replace(params["evaluate"], judge=str(tmp_path / "judge"), num_samples=500)
    sections = params["data"], config, params["sampler"]
    context = EvalContext.read(trained / "denoiser", shards.folder, *sections).with_judge()
    half = len(context.held_out) // 2
    assert context.num_real == half  # real texts are held against other ones, never themselves
    real = context.real_texts(2 * half)
    read = [context.reference.judge.read(ids, []) for ids in (real.ids[:half], real.ids[half:])]
    measured = measure(context.real_texts(half), context)
    assert measured.items() >= measure_mauve(*read).items()
    assert measured["judged_perplexity"] == pytest.approx(read[0].perplexity)
    few = measure(context.real_texts(half - 1), context)
    assert "judged_perplexity" in few and "mauve" not in few  # it depends on the number of texts
    others = measure(context.texts(real.ids[half:]), context)  # those that set the threshold
    assert others["judged_as_real"] == pytest.approx(0.95, abs=1 / half)


def test_what_is_no_judge_is_refused(shards: Shards, tmp_path: Path) -> None:
    make_judge(tmp_path / "masked", shards, "masked")
    with pytest.raises(UserError, match="is the masked baseline, which gives no text's likelihood"):
        read_judge(str(tmp_path / "masked"), shards, CPU)
    tokenizer = Path(shutil.copytree(shards.folder, tmp_path / "tokenizer"))
    with (tokenizer / "tokenizer.json").open("a", encoding="utf-8") as file:
        file.write(" ")
    make_judge(tmp_path / "other", shards, tokenizer=tokenizer)
    with pytest.raises(UserError, match="was trained with another tokenizer than these shards"):
        read_judge(str(tmp_path / "other"), shards, CPU)
    (tmp_path / "other" / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="altered"):
        read_judge(str(tmp_path / "other"), shards, CPU)


def test_a_judge_that_cannot_be_found_says_what_works_without_a_network(
    shards: Shards, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("models/baselines/nowhere/at-all", "nobody/no-such-model"):
        with pytest.raises(
            UserError,
            match=r"no such model here or on the Hugging Face Hub .* can be null, the folder of an auto",
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
            EvalContext.read(
                trained / "denoiser", shards.folder, params["data"], section, params["sampler"]
            ).with_judge()
