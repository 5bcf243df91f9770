"""How to sample: what is told, and what the folder recommends for all else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sunfish.diffusion.lengths import RowLengths
from sunfish.diffusion.schedule import NoiseSchedule
from sunfish.errors import UserError
from sunfish.sampling.solvers import MAX_STEPS, Table, make_table

MEANS = ("ddim", "ddpm", "dpm-solver")  # samplers that draw no token, but go to the mean of all
# steps that each token takes in them unless told otherwise: in one or two noise has hardly a say, and all
# texts are alike
WINDOW = 4


@dataclass(frozen=True)
class Settings:
    """How to sample; None takes what the folder recommends."""

    sampler: str | None = None
    steps: int | None = None
    eta: float | None = None
    temperature: float | None = None
    settle: float | None = None
    window_steps: int | None = None  # that each position takes; as many as steps: all at once
    floor: float | None = None  # tokens less probable than this are never drawn
    order: str | None = None
    candidates: int | None = (
        None  # fillings of a gap, of which the one that makes the likeliest text is taken
    )
    seed: int = 0
    batch: int | None = None  # texts denoised together; None: as many as take little memory


@dataclass(frozen=True, eq=False)
class Sampling:
    """Settings with nothing left open."""

    table: Table
    temperature: float
    candidates: int
    seed: int
    batch: int | None


def resolve(
    settings: Settings, recommended: dict[str, Any], law: NoiseSchedule, lengths: RowLengths
) -> Sampling:
    """Return the settings, with the folder's where nothing is told.

    Where it recommends fewer steps a token than noise needs to have its say in `MEANS`, these take `WINDOW`
    unless told otherwise, and as many in all as one token after another needs.

    Raises:
        UserError: there is no sampling so.
    """
    usual = {**recommended, "sampler": recommended["name"]}
    if settings.sampler in MEANS and settings.sampler != usual["sampler"] and usual["window_steps"] < WINDOW:
        usual |= {
            "window_steps": WINDOW,
            "steps": min(max(usual["steps"], WINDOW * lengths.longest), MAX_STEPS),
        }
    told: dict[str, Any] = {
        name: usual.get(name) if value is None else value for name, value in vars(settings).items()
    }
    for name in ("candidates", "batch"):
        if told[name] is not None and told[name] < 1:
            raise UserError(f"--{name} = {told[name]}: must be at least 1")
    if told["seed"] < 0:
        raise UserError(f"--seed = {told['seed']}: must not be negative")
    if told["temperature"] <= 0:
        raise UserError(f"--temperature = {told['temperature']}: must be above 0")
    if told["order"] != "forward" and not lengths.told:
        raise UserError(
            f"--order = {told['order']}: a model that is not told how long a text is writes from left to right; leave it out"
        )
    try:
        table = make_table(
            told["sampler"],
            law,
            told["steps"],
            told["eta"],
            told["settle"],
            told["window_steps"],
            told["order"],
            told["floor"],
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    return Sampling(table, told["temperature"], told["candidates"], told["seed"], told["batch"])
