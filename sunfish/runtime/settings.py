"""How to sample: what is asked for, and what the folder recommends for all else."""

from __future__ import annotations

import dataclasses
import math
import secrets
from dataclasses import dataclass
from typing import Any, get_type_hints

from sunfish.config.convert import convert
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.errors import InvalidValue, UserError
from sunfish.runtime.folder import ExportedConfig, Measured

SAME = ("steps", "eta", "churn", "temperature", "confidence_threshold", "epsilon_cutoff")
SAMPLER_KEYS = {"sampler": "name", **{key: key for key in SAME}}  # setting -> key of `SamplerConfig`
CHECK_KEYS = {"check_epsilon": "epsilon", "redraft_steps": "steps"}
CHECK_KEYS |= {"restart_time": "restart_time", "max_rounds": "max_rounds"}
# conf/sampler/checked.yaml
USUAL_CHECK = CheckConfig(epsilon=0.45, steps=1, restart_time=0.7, max_rounds=None)


@dataclass(frozen=True)
class Settings:
    """How to sample; None takes what the folder recommends."""

    sampler: str | None = None
    steps: int | None = None  # of the first draft
    eta: float | None = None
    churn: float | None = None
    temperature: float | None = None
    confidence_threshold: float | None = None
    epsilon_cutoff: float | None = None
    check: bool | None = None  # whether drafts are checked, corrected and drafted again
    check_epsilon: float | None = None
    redraft_steps: int | None = None
    restart_time: float | None = None
    max_rounds: int | None = None
    seed: int | None = None  # None: drawn
    batch: int | None = None  # texts sampled together; None: as many as take little memory


@dataclass(frozen=True)
class Resolved:
    """Settings with nothing left open."""

    config: SamplerConfig
    seed: int
    batch: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return them by the names of `Settings`."""
        config, check = self.config, self.config.check
        values = {name: getattr(config, key) for name, key in SAMPLER_KEYS.items()}
        values |= {"check": check is not None}
        values |= {name: check and getattr(check, key) for name, key in CHECK_KEYS.items()}
        return {**values, "seed": self.seed, "batch": self.batch}


def resolve(
    settings: Settings, folder: ExportedConfig, num_positions: int | None = None, has_gaps: bool = False
) -> Resolved:
    """Return the settings, with the folder's where nothing is asked for, for texts of `num_positions` tokens.

    A sampler asked for by name keeps no token early unless told to, so that it takes exactly its steps.

    Raises:
        UserError: there is no sampling so.
    """
    hints = get_type_hints(Settings)
    for name, value in vars(settings).items():
        convert(hints[name], value, option(name))
    if settings.sampler is not None and settings.confidence_threshold is None:
        settings = dataclasses.replace(settings, confidence_threshold=1.0)
    usual = folder.sampler.for_gaps() if has_gaps else folder.sampler
    values = {key: _first(getattr(settings, name), getattr(usual, key)) for name, key in SAMPLER_KEYS.items()}
    check = _resolve_check(settings, folder, usual.check)
    try:
        config = SamplerConfig(**values, check=check)
    except InvalidValue as error:
        raise _as_option(error, SAMPLER_KEYS, values) from error
    longest = folder.row_lengths.longest
    if not has_gaps:
        _require_rounds(settings, min(num_positions or longest, longest))
    if settings.batch is not None and settings.batch < 1:
        raise UserError(f"--batch = {settings.batch}: must be at least 1")
    if settings.seed is not None and settings.seed < 0:
        raise UserError(f"--seed = {settings.seed}: must not be negative")
    seed = secrets.randbits(32) if settings.seed is None else settings.seed
    return Resolved(config, seed, settings.batch)


def _resolve_check(
    settings: Settings, folder: ExportedConfig, usual: CheckConfig | None
) -> CheckConfig | None:
    asked = [name for name in CHECK_KEYS if getattr(settings, name) is not None]
    is_checked = usual is not None if settings.check is None else settings.check
    if asked and not is_checked:
        advice = "leave --no-check out" if settings.check is False else "add --check"
        raise UserError(f"{option(asked[0])}: belongs to the check, which is off; {advice}")
    if not is_checked:
        return None
    if not folder.can_check:
        says = "this model did not learn to check (diffusion.check_weight was 0)"
        raise UserError(f"--check: {says}; leave it out")
    usual = usual or USUAL_CHECK
    values = {key: _first(getattr(settings, name), getattr(usual, key)) for name, key in CHECK_KEYS.items()}
    try:
        return CheckConfig(**values)
    except InvalidValue as error:
        raise _as_option(error, CHECK_KEYS, values) from error


def _require_rounds(settings: Settings, num_positions: int) -> None:
    rounds = settings.max_rounds
    if rounds is not None and rounds > num_positions:
        says = f"--max-rounds = {rounds}: is more than a text has positions ({num_positions})"
        raise UserError(f"{says}, and each round accepts at least one; lower it or leave it out")


def _first(asked: Any, usual: Any) -> Any:
    return usual if asked is None else asked


def _as_option(error: InvalidValue, keys: dict[str, str], values: dict[str, Any]) -> UserError:
    """Return a section's complaint as one about an option."""
    names = {key: name for name, key in keys.items()}
    return UserError(f"{option(names[error.key])} = {values[error.key]}: {error.reason}")


def option(name: str) -> str:
    """Return a setting's name at the command line."""
    return f"--{name.replace('_', '-')}"


def few_steps(config: SamplerConfig, folder: ExportedConfig) -> str | None:
    """Return a note where a sampler takes less than half of the steps that it was measured with, or where it
    was measured to be less than half as good as the folder's own.

    Without a measurement of the very sampler, the folder's recommendation stands for it."""
    usual = _row(folder.sampler)
    known = [*folder.measured, usual]
    same = [row for row in known if _kind(row) == _kind(_row(config))]
    fewest = min(row.steps for row in same or known)
    if 2 * config.steps < fewest:
        steps = f"{config.steps} steps are far fewer than this model was measured with ({fewest})"
        return f"{steps}; expect worse texts"
    best = [row for row in folder.measured if (_kind(row), row.steps) == (_kind(usual), usual.steps)]
    near = min(same, key=lambda row: abs(math.log(row.steps / config.steps)), default=usual)
    if best and near.consistent is not None and near.consistent < (best[0].consistent or 0.0) / 2:
        return f"{_quality(near)} when measured; the model's own sampler, {_quality(best[0])}"
    return None


def _row(config: SamplerConfig) -> Measured:
    return Measured(config.name, config.steps, config.check is not None, None, None)


def _kind(row: Measured) -> tuple[str, bool]:
    return row.sampler, row.check


def _quality(row: Measured) -> str:
    how = f"{row.sampler} of {row.steps} steps, {'checked' if row.check else 'unchecked'}"
    return f"{how}, wrote {row.consistent:.1%} consistent texts and {row.valid or 0.0:.1%} valid sentences"
