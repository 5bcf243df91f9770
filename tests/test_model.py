from __future__ import annotations

import dataclasses
import json
import math
import pathlib

import jaxtyping
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sunfish.config.compose import check, compose
from sunfish.diffusion import objective, process
from sunfish.evaluation.bound import AT_ONCE, Path, variational_bound
from sunfish.diffusion.lengths import RowLengths
from sunfish.model import readout
from sunfish.model.denoiser import ALIGNED, Denoiser, count_parameters, init_weights
from sunfish.model.embedding import expected_embedding
from sunfish.sampling.torch_backend import TorchNetwork, sample_ids
from sunfish.model.attention_mask import OPEN, number_documents, see_turns, show_noisy
from sunfish.model.pretrained import read_denoiser
from sunfish.errors import UserError
from sunfish.sampling.solvers import SAMPLERS, Given, ddim, make_table
from sunfish.diffusion.schedule import linear_beta, uniform
from sunfish.config.schema.model import ModelConfig

SMALL = ModelConfig(
    name="small",
    num_layers=2,
    num_heads=2,
    width=32,
    emb_dim=16,
    cond_dim=8,
    tied_head=True,
    output_prior=True,
    told_before=True,
    told_length=True,
)


def make(vocab_size: int = 11, **changes: object) -> Denoiser:
    denoiser = Denoiser(dataclasses.replace(SMALL, **changes), vocab_size)
    init_weights(denoiser, 0)
    return denoiser


def noisy(denoiser: Denoiser, batch: int = 2, length: int = 6) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, denoiser.vocab_size, (batch, length), generator=generator)
    x_0 = denoiser.embed(ids)
    logsnr = torch.linspace(-3, 1, batch * length).view(batch, length)
    x_t = process.add_noise(x_0, torch.randn(x_0.shape, generator=generator), logsnr)
    return (
        x_t,
        logsnr,
        torch.zeros_like(x_t),
        torch.zeros(batch, length, dtype=torch.bool),
        torch.full((batch, length), OPEN),
    )


@pytest.mark.parametrize(
    ("model", "vocab_size", "low", "high"),
    [
        ("tiny", 512, 0.5e6, 0.6e6),
        ("mini", 1024, 0.45e6, 1.0e6),
        ("small", 50_257, 50e6, 60e6),
        ("base", 50_257, 125e6, 145e6),
        ("large", 50_257, 350e6, 400e6),
        ("full", 50_257, 1.3e9, 1.45e9),
    ],
)
def test_parameter_counts(
    model: str, vocab_size: int, low: float, high: float, tmp_path: pathlib.Path
) -> None:
    compose([f"model={model}"], tmp_path / "params.yaml")
    section = check(tmp_path / "params.yaml")["model"]
    with torch.device("meta"):
        counted = sum(p.numel() for p in Denoiser(section, vocab_size).parameters())
    assert low <= counted <= high
    assert counted == count_parameters(section, vocab_size)


def test_an_untrained_denoiser_with_the_output_prior_is_the_exact_posterior() -> None:
    denoiser = make()
    x_t, logsnr, nothing, known, turn = noisy(denoiser)
    table = denoiser.embedding.table()
    alpha, sigma = process.alpha_sigma(logsnr)
    distance = (x_t[:, :, None] - alpha[..., None] * table).square().sum(-1)
    exact = (-distance / (2 * sigma**2)).log_softmax(-1)
    torch.testing.assert_close(
        denoiser(x_t, logsnr, nothing, known, turn).logits.log_softmax(-1), exact, atol=1e-4, rtol=1e-4
    )


def free(ids: np.ndarray) -> Given:
    return Given(ids, np.zeros_like(ids, dtype=bool))


@pytest.mark.parametrize("num_levels", [24, 0])
@pytest.mark.parametrize("path", [AT_ONCE, Path("forward", 3), Path("random", 1)])
def test_the_bound_of_the_ideal_denoiser_is_the_entropy(path: Path, num_levels: int) -> None:
    """Tokens drawn evenly and independently: the untrained denoiser is ideal, the entropy is log V; the bound
    lies on it on every path, and so does that of a walk of one step.
    """
    denoiser, vocab_size = make(), 11
    rng = np.random.default_rng(0)
    batches = [free(rng.integers(vocab_size, size=(100, 8))) for _ in range(4)]
    bound = variational_bound(
        denoiser, uniform(-14, 8, 50), RowLengths.count([8], 1), batches, num_levels, rng, path=path
    )
    nats, entropy = bound.nats.mean() / 8, math.log(vocab_size)
    error = bound.nats.std() / 20 / 8
    assert entropy - 4 * error < nats < 1.02 * entropy + 4 * error
    assert error < 0.02 * entropy


def test_a_row_s_length_costs_what_its_law_says() -> None:
    """Rows of 4 and 8, three to one: the bound is the tokens' entropy and the lengths'."""
    denoiser, rng = make(), np.random.default_rng(0)
    batches = [free(rng.integers(11, size=(300, 4))), free(rng.integers(11, size=(100, 8)))]
    bound = variational_bound(
        denoiser, uniform(-14, 8, 50), RowLengths.count([4] * 3000 + [8] * 1000, 2), batches, 24, rng
    )
    assert bound.length_nats.mean() == pytest.approx(0.5623, abs=1e-3)  # 2 log 2 - 0.75 log 3
    assert np.allclose(
        bound.nats - bound.diffusion_nats - bound.reconstruction_nats - bound.prior_nats, bound.length_nats
    )
    assert bound.prior_nats[-1] == pytest.approx(2 * bound.prior_nats[0])


def test_given_tokens_cost_nothing_and_the_others_their_entropy() -> None:
    denoiser, rng = make(), np.random.default_rng(0)
    known = np.tile(np.arange(8) < 6, (400, 1))
    bound = variational_bound(
        denoiser, uniform(-14, 8, 50), None, [Given(rng.integers(11, size=known.shape), known)], 24, rng
    )
    assert bound.nats.mean() == pytest.approx(2 * math.log(11), rel=0.05)
    assert not bound.length_nats.any()


def test_only_a_model_that_is_told_a_row_s_length_knows_it() -> None:
    """In order each position sees what is before it: whatever is behind a beginning, what is said of the
    beginning stays.
    """
    for told_length in (False, True):
        denoiser = make(told_length=told_length)
        for parameter in denoiser.parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        x_t, logsnr, nothing, known, _ = noisy(denoiser, length=9)
        turn = torch.arange(1, 10).expand(2, 9)
        whole, begun = (
            denoiser(*(part[:, :length] for part in (x_t, logsnr, nothing, known, turn))).logits[:, :5]
            for length in (9, 5)
        )
        assert torch.allclose(whole, begun, atol=1e-5) is not told_length


def test_shapes_are_checked_while_tests_run() -> None:
    denoiser = make()
    logits = denoiser(*noisy(denoiser)).logits
    with pytest.raises(jaxtyping.TypeCheckError):
        objective.cross_entropy(logits, torch.zeros(2, 5, 3, dtype=torch.int64))


@pytest.mark.parametrize(
    "made", [{"tied_head": True}, {"tied_head": False}, {"tied_head": False, "output_prior": False}]
)
@pytest.mark.parametrize("autocast", [False, True])
def test_a_loss_in_pieces_has_the_gradient_of_the_whole(
    made: dict, autocast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gradients(piece: int) -> dict[str, torch.Tensor]:
        monkeypatch.setitem(readout.PIECE, "cpu", piece)
        denoiser = make(**made)
        for parameter in denoiser.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        x_t, logsnr, nothing, known, turn = noisy(denoiser, batch=3)
        known[0, :4] = True
        ids = torch.arange(18).view(3, 6) % 11
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            share = (~known) * torch.tensor([0.25, 0.5, 1.0])[:, None]
            nats = denoiser.predict_nats(x_t.detach(), logsnr, nothing, known, see_turns(turn), ids, share)
        loss = 0.3 * (nats * share).sum()
        loss.backward()
        return {
            "loss": loss.detach(),
            **{name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None},
        }

    for piece in (11 * 4, 11 * 17, 5):
        generator = torch.Generator().manual_seed(0)
        whole = gradients(2**24)
        generator.manual_seed(0)
        pieces = gradients(piece)
        assert whole.keys() == pieces.keys()
        for name, gradient in whole.items():
            close = 3e-2 * float(gradient.abs().max()) if autocast else 1e-6
            torch.testing.assert_close(pieces[name], gradient, atol=close, rtol=1e-5)


def test_embeddings_have_unit_variance_by_construction() -> None:
    table = make().embedding.table()
    torch.testing.assert_close(table.square().mean(-1), torch.ones(11))


def test_known_positions_are_returned_as_given() -> None:
    denoiser = make()
    x_t, logsnr, nothing, known, turn = noisy(denoiser)
    known[:, 2] = True
    x_0_hat = denoiser(x_t, logsnr, nothing, known, turn).x_0_hat
    assert torch.equal(x_0_hat[:, 2], x_t[:, 2]) and not torch.equal(x_0_hat[:, 1], x_t[:, 1])


def test_mixed_precision_leaves_the_expected_embedding_exact() -> None:
    """`eps_mse` divides its error by sigma: rounded to bf16, a perfect answer would miss the gate's 0.01 at
    low noise.
    """
    denoiser = make()
    arguments = noisy(denoiser)
    sure = 50.0 * torch.nn.functional.one_hot(torch.tensor([[3, 1, 4, 1, 5, 9]]), 11).float()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(
            expected_embedding(sure, denoiser.embedding.table()), denoiser.embed(sure.argmax(-1))
        )
        assert denoiser(*arguments).x_0_hat.dtype == torch.float32


def test_a_folder_of_another_version_says_so(tmp_path: pathlib.Path) -> None:
    (tmp_path / "noise_law.json").write_text(json.dumps(uniform(-11, 4).to_json()))
    (tmp_path / "config.json").write_text(
        json.dumps({"model": {**dataclasses.asdict(SMALL), "depth": 2}, "vocab_size": 11})
    )
    with pytest.raises(UserError, match="another version.*pretrain stage"):
        read_denoiser(tmp_path)
    for law in ({}, {"t": [0.0, 1.0], "logsnr": [-1.0, 4.0]}):
        (tmp_path / "noise_law.json").write_text(json.dumps(law))
        with pytest.raises(UserError, match="noise_law.json: is no noise law.*pretrain stage"):
            read_denoiser(tmp_path)


def test_rows_of_a_batch_do_not_see_each_other() -> None:
    denoiser = make()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        arguments = noisy(denoiser)
        alone = denoiser(*(a[1:] for a in arguments)).logits
        torch.testing.assert_close(denoiser(*arguments).logits[1:], alone)


@pytest.mark.parametrize("name", SAMPLERS)
def test_sampling_keeps_known_ids_and_repeats_by_seed(name: str) -> None:
    denoiser = make()
    ids = np.arange(12).reshape(2, 6) % 11
    known = ids % 3 == 0
    table = make_table(name, uniform(-11, 4), 6)
    first, again = (
        sample_ids(denoiser, table, Given(ids, known), np.random.default_rng(3))[0] for _ in range(2)
    )
    assert np.array_equal(first, again) and np.array_equal(first[known], ids[known])


@given(st.floats(-12, 8), st.integers(0, 1000))
def test_conversions_come_back(level: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 1, 3, 4, generator=generator, dtype=torch.float64)
    logsnr = torch.tensor([[level, level - 1, level + 1]], dtype=torch.float64)
    alpha, sigma = process.alpha_sigma(logsnr)
    x_t = process.add_noise(x_0, eps, logsnr)
    v = alpha * eps - sigma * x_0
    for got, wanted in (
        (process.eps_from_x_0(x_t, x_0, logsnr), eps),
        (process.x_0_from_eps(x_t, eps, logsnr), x_0),
        (process.v_from_x_0(x_t, x_0, logsnr), v),
        (process.x_0_from_v(x_t, v, logsnr), x_0),
    ):
        torch.testing.assert_close(got, wanted, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("prefix", [0, 5])
def test_isolated_documents_do_not_see_each_other_and_are_as_if_alone(params: dict, prefix: int) -> None:
    denoiser = Denoiser(params["model"], 20)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in denoiser.named_parameters():
        torch.nn.init.normal_(
            parameter, std=0.0 if name.startswith("position") else 0.3, generator=generator
        )  # they differ by design
    end = 19
    first = torch.tensor([[3, 4, 5, 6, end]])[:, 5 - prefix :]
    mine, others = torch.tensor([[7, 8, 9, end]]), torch.tensor([[10, 11]])
    row = torch.cat((first, mine, others), dim=1)
    document = number_documents(row, end)
    assert document.tolist() == [[0] * prefix + [int(prefix > 0)] * 4 + [int(prefix > 0) + 1] * 2]

    def predict(ids: torch.Tensor, document: torch.Tensor | None) -> torch.Tensor:
        x_t = denoiser.embed(ids) * 0.7
        shown = show_noisy(x_t, torch.zeros(ids.shape), torch.zeros_like(ids, dtype=torch.bool), document)
        return denoiser.predict(*shown.told(x_t * 0.1)).logits

    together, alone = predict(row, document)[:, prefix : prefix + 4], predict(mine, None)
    assert torch.allclose(together, alone, atol=1e-4)
    assert not torch.allclose(predict(row, None)[:, prefix : prefix + 4], alone, atol=1e-2)


def test_without_an_end_token_documents_are_not_numbered() -> None:
    assert number_documents(torch.zeros(1, 3, dtype=torch.long), None) is None


@pytest.mark.parametrize(
    "made", [{"tied_head": True}, {"tied_head": False}, {"tied_head": False, "output_prior": False}]
)
def test_what_is_held_is_made_once_and_says_the_same(made: dict[str, bool]) -> None:
    denoiser = make(**made).eval().requires_grad_(False)
    denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    told = noisy(denoiser)
    before = denoiser(*told)
    with denoiser.held():
        held = denoiser.readout(denoiser.embedding.table())
        assert denoiser.readout(denoiser.embedding.table()) is held
        assert all(torch.equal(now, then) for now, then in zip(denoiser(*told), before, strict=True))
        denoiser.head.weight.zero_()
    assert made["tied_head"] or not torch.equal(
        denoiser(*told).logits, before.logits
    )  # nothing is held behind the block
    with torch.autocast("cpu", torch.bfloat16), denoiser.held():
        assert denoiser.readout(denoiser.embedding.table()).weight.dtype == torch.bfloat16


def test_texts_of_which_nothing_is_given_need_no_sight() -> None:
    denoiser = make().eval().requires_grad_(False)
    denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    rng, nothing = np.random.default_rng(0), Given.nothing(2, 6)
    table = ddim(linear_beta(), 5)
    free, told = TorchNetwork(denoiser, rng), TorchNetwork(denoiser, rng)
    for network in (free, told):
        network.start(table, nothing, np.zeros((2, 6), np.int64))
    assert free.move.sees_all
    told.move, told.state = told.moves[False, False], free.state
    for left in range(5, 0, -1):
        for network in (free, told):
            network.step(left)
        torch.testing.assert_close(free.state.x, told.state.x, rtol=1e-5, atol=1e-5)
    assert torch.equal(free.state.ids, told.state.ids)
    given = Given(nothing.ids, np.arange(6)[None] == np.array([[2], [4]]))
    sure, staggered = dataclasses.replace(table, settle_above=0.9), dataclasses.replace(table, steps=9)
    for other, rows in ((table, given), (sure, nothing), (staggered, nothing)):
        free.start(other, rows, other.places(rows.known, rng))
        assert not free.move.sees_all


@pytest.mark.parametrize("tied_head", [True, False])
def test_a_readout_filled_up_for_a_gpu_says_the_same(
    tied_head: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = make(tied_head=tied_head).eval().requires_grad_(False)
    denoiser.head.weight.normal_(generator=torch.Generator().manual_seed(1))
    told = noisy(denoiser)
    before = denoiser(*told)
    monkeypatch.setitem(ALIGNED, "cpu", 64)
    assert denoiser.vocab_size % 64
    with denoiser.held():
        assert len(denoiser.readout(denoiser.embedding.table()).weight) % 64 == 0
        for now, then in zip(denoiser(*told), before, strict=True):
            torch.testing.assert_close(now, then, rtol=1e-5, atol=1e-5)
