from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from sunfish.config.schema.sampler import SamplerConfig
from sunfish.diffusion.schedule import uniform
from sunfish.model.denoiser import Denoiser
from sunfish.sampling.loop import Conditioning, Event, Sampled, SamplerPlan, Snapshot, sample_loop
from sunfish.sampling.noise import noise_of
from sunfish.sampling.solvers import SAMPLERS
from sunfish.sampling.step import CheckStep
from sunfish.sampling.torch_backend import TorchBackend, sample_texts
from tests.builders import CHECKED, PLAIN, make_denoiser
from tests.oracles import ToyDenoiser, surprise_margin

SCHEDULE, LENGTH = uniform(-11, 4), 9
DENOISER = make_denoiser(jitter=0.3)
UNSURE = make_denoiser(jitter=0.3, input_posterior=False)  # an untrained one's posterior is all but sure
NOTHING = Conditioning.nothing(3, LENGTH)


def plan_of(config: SamplerConfig = CHECKED, **check: object) -> SamplerPlan:
    changed = (
        config
        if config.check is None
        else dataclasses.replace(config, check=dataclasses.replace(config.check, **check))
    )
    return SamplerPlan.make(changed, SCHEDULE)


def sampled(
    plan: SamplerPlan, conditioning: Conditioning = NOTHING, seed: int = 0, denoiser: Denoiser = DENOISER
) -> Sampled:
    return sample_texts(denoiser, plan, conditioning, np.random.default_rng(seed))


def watched(plan: SamplerPlan, conditioning: Conditioning = NOTHING) -> list[tuple[Event, Snapshot]]:
    rngs = np.random.default_rng(0).spawn(len(conditioning.ids))
    backend = TorchBackend(DENOISER, noise_of(rngs, LENGTH, DENOISER.config.emb_dim), plan)
    with torch.no_grad():
        return [(event, backend.snapshot()) for event in sample_loop(plan, backend, conditioning)]


def given_every_third() -> Conditioning:
    ids = np.arange(3 * LENGTH).reshape(3, LENGTH) % 11
    return Conditioning(ids, ids % 3 == 0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("config", [PLAIN, CHECKED], ids=["plain", "checked"])
def test_given_tokens_stay_and_the_seed_decides_the_rest(name: str, config: SamplerConfig) -> None:
    plan, given = plan_of(dataclasses.replace(config, name=name, churn=0.1)), given_every_third()
    first, again, other = (sampled(plan, given, seed, UNSURE).ids for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(first[given.known], given.ids[given.known])
    for _, state in watched(plan, given):
        known = given.known[state.rows]
        assert state.known[known].all() and (state.tokens[known] == given.ids[state.rows][known]).all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_plain_sampler_takes_exactly_its_steps(name: str) -> None:
    result = sampled(plan_of(dataclasses.replace(PLAIN, name=name, steps=5)))
    assert result.calls.tolist() == [5, 5, 5] and not result.corrected.any()


def test_a_check_that_rejects_nothing_is_one_call() -> None:
    result, plain = sampled(plan_of(epsilon=0.0)), sampled(plan_of(PLAIN))
    assert result.calls.tolist() == [PLAIN.steps + 1] * 3 and not result.corrected.any()
    assert np.array_equal(result.ids, plain.ids)  # the draft is the text


def test_a_text_is_done_when_all_its_tokens_pass() -> None:
    plan = plan_of(epsilon=0.3)
    result = sampled(plan)
    assert result.corrected.any() and len(set(result.calls)) > 1  # texts are done at different times
    with torch.no_grad():
        margin = surprise_margin(DENOISER, result.ids, 0.3)
    assert bool((margin >= -1e-5).all())
    saved = PLAIN.steps + 1 + 3 * result.corrected - result.calls  # a correction: two steps and another check
    assert set(saved) <= {0, 3}  # after a text's last token there is nothing left to draft


def test_what_a_check_accepted_never_changes_and_grows() -> None:
    accepted: dict[int, np.ndarray] = {}
    for event, state in watched(plan_of(epsilon=0.5)):
        for row, tokens, known in zip(state.rows, state.tokens, state.known, strict=True):
            before = accepted.get(row, tokens[:0])
            assert np.array_equal(tokens[: len(before)], before)
            if event.kind == "check":
                length = int(known.argmin()) if not known.all() else LENGTH
                assert known[:length].all() and not known[length:].any()  # a prefix
                assert length > len(before)
                accepted[row] = tokens[:length]
    assert len(accepted) == 3


def test_a_corrected_token_passes_the_check() -> None:
    corrected = 0
    for event, state in watched(plan_of(epsilon=0.5)):
        if event.kind == "check" and state.rejected.any():
            with torch.no_grad():
                margin = surprise_margin(DENOISER, state.tokens, 0.5).numpy()
            assert (margin >= -1e-5)[state.rejected].all()
            corrected += int(state.rejected.sum())
    assert corrected > 3


@pytest.mark.parametrize("rounds", [1, 2])
def test_the_number_of_checks_is_bounded(rounds: int) -> None:
    plan = plan_of(epsilon=0.9, max_rounds=rounds)
    result = sampled(plan)
    checks = [event for event, _ in watched(plan) if event.kind == "check"]
    assert len(checks) == rounds and result.corrected.max() == rounds
    assert result.calls.max() == PLAIN.steps + rounds * 3  # the last draft is not checked


def test_nothing_is_sampled_where_everything_is_given() -> None:
    given = Conditioning(given_every_third().ids, np.ones((3, LENGTH), bool))
    result = sampled(plan_of(epsilon=0.5), given)
    assert np.array_equal(result.ids, given.ids) and not result.corrected.any()


@pytest.mark.parametrize("config", [PLAIN, CHECKED], ids=["plain", "checked"])
def test_a_text_does_not_depend_on_the_texts_beside_it(config: SamplerConfig) -> None:
    plan, given = plan_of(dataclasses.replace(config, name="ddpm")), given_every_third()

    def ids_of(rows: list[int]) -> np.ndarray:
        rngs = np.random.default_rng(5).spawn(3)
        part = Conditioning(given.ids[rows], given.known[rows])
        draw = noise_of([rngs[row] for row in rows], LENGTH, DENOISER.config.emb_dim)
        backend, ids = TorchBackend(DENOISER, draw, plan), part.ids.copy()
        with torch.no_grad():
            for _ in sample_loop(plan, backend, part):
                state = backend.snapshot()
                ids[state.rows] = state.tokens
        return ids

    together = ids_of([0, 1, 2])
    assert all(np.array_equal(ids_of([row])[0], together[row]) for row in range(3))


def successor(length: int = 7, sure: float = 9.0) -> Tensor:
    """p(token | token before): k + 1 follows k, and 0 begins."""
    return sure * torch.eye(length)[torch.arange(length + 1).clamp(max=length - 1)]


def checked(ids: list[int], given: list[int], epsilon: float = 0.1) -> list[np.ndarray]:
    step = CheckStep(ToyDenoiser(embeddings=np.eye(7), next_token_logits=successor()))
    row, mask = torch.tensor([ids]), torch.tensor([[i in given for i in range(len(ids))]])
    output = step(
        row, mask, torch.zeros(1, len(ids), 7).double(), torch.full(row.shape, 0.5), torch.tensor(epsilon),
        torch.tensor(0.0), torch.ones(1),
    )  # fmt: skip
    return [output.ids[0].numpy(), output.known[0].numpy(), output.rejected[0].numpy()]


def test_the_first_improbable_token_is_corrected_and_all_behind_it_is_open() -> None:
    ids, known, rejected = checked([0, 1, 5, 6, 4], given=[])
    assert ids.tolist() == [0, 1, 2, 6, 4] and known.tolist() == [True, True, True, False, False]
    assert rejected.tolist() == [False, False, True, False, False]


def test_given_tokens_behind_a_rejected_one_stay_known() -> None:
    ids, known, _ = checked([0, 5, 6, 3, 4], given=[3])
    assert ids.tolist() == [0, 1, 6, 3, 4] and known.tolist() == [True, True, False, True, False]


def test_a_rejected_given_token_opens_the_gap_before_it_again_and_no_other() -> None:
    ids, known, rejected = checked([0, 1, 2, 3, 6, 5, 6], given=[0, 2, 4])
    assert rejected.tolist() == [False, False, False, False, True, False, False]
    assert known.tolist() == [True, True, True, False, True, False, False]
    assert ids.tolist() == [0, 1, 2, 3, 6, 5, 6]  # nothing is corrected


def test_a_given_beginning_is_not_judged() -> None:
    _, known, rejected = checked([5, 3, 4, 5, 6], given=[0, 1])
    assert known.all() and not rejected.any()


EMBEDDINGS = np.eye(3)


def confident(x: Tensor, logsnr: float) -> tuple[Tensor, Tensor]:
    """Sure of token k at position k, and the surer the less noise there is; the first position soonest."""
    logits = np.eye(3)[None] * (logsnr - np.array([-8.0, -4.0, 0.0])[None, :, None])
    return torch.zeros_like(x), torch.from_numpy(logits).float().expand(len(x), 3, 3)


def test_sure_tokens_are_kept_early_and_save_calls() -> None:
    toy = ToyDenoiser(confident, EMBEDDINGS.astype(np.float32))
    plan = SamplerPlan.make(dataclasses.replace(PLAIN, steps=50, confidence_threshold=0.9), SCHEDULE)
    toy.weight = torch.nn.Parameter(toy.weight, requires_grad=False)
    backend = TorchBackend(toy, noise_of(np.random.default_rng(0).spawn(1), 3, 3), plan)
    orders = [[False] * 3]
    for _ in sample_loop(plan, backend, Conditioning.nothing(1, 3)):
        state = backend.snapshot()
        if state.known[0].tolist() != orders[-1]:
            orders.append(state.known[0].tolist())
    assert orders == [[False] * 3, [True, False, False], [True, True, False], [True] * 3]
    assert state.tokens.tolist() == [[0, 1, 2]]
