"""Who is compared: SunFish and the masked baseline, drafts alone and checked, and the autoregressive one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pipelines.baselines.autoregressive import sample_autoregressive
from pipelines.baselines.masked import sample_masked
from sunfish.config.schema.sampler import CheckConfig, SamplerConfig
from sunfish.model.baseline import StoredBaseline
from sunfish.model.pretrained import StoredDenoiser
from sunfish.sampling.loop import Conditioning, Sampled, SamplerPlan
from sunfish.sampling.torch_backend import sample_texts

FAMILIES = {
    "sunfish": "SunFish, drafts alone",
    "sunfish_checked": "SunFish, checked",
    "masked": "masked diffusion, drafts alone",
    "masked_checked": "masked diffusion, checked",
    "autoregressive": "autoregressive",
}
EPSILON_CUTOFF = 0.008  # of the autoregressive baseline's second row. Source: [Truncation] section 4.1
DDIM_STEPS = (10, 16, 32, 50)
MASKED_STEPS = (8, 16, 32, 64, 128)
KEPT_STEPS, KEPT_ABOVE = 64, 0.9
DRAWN_STEPS = (8, 16, 32)
CHECKED_STEPS = ((4, 1), (8, 2), (16, 4), (32, 8))  # of the first draft, and of each later one
DEFAULT_CHECK = CheckConfig(epsilon=0.45, steps=1, restart_time=0.7, max_rounds=None)

SampleRows = Callable[[int, int, np.random.Generator], Sampled]  # how many rows, of how many tokens


@dataclass(frozen=True)
class Contender:
    """One row of the table."""

    family: str  # of FAMILIES
    name: str
    sample: SampleRows


def all_contenders(
    stored: StoredDenoiser, masked: StoredBaseline, autoregressive: StoredBaseline, sampler: SamplerConfig
) -> list[Contender]:
    """Return every row, at the configured sampler's temperature and with its check."""

    def denoise(config: SamplerConfig) -> SampleRows:
        plan = SamplerPlan.make(config, stored.schedule)
        return lambda num, length, rng: sample_texts(
            stored.denoiser, plan, Conditioning.nothing(num, length), rng
        )

    def unmask(config: SamplerConfig) -> SampleRows:
        plan = SamplerPlan.make(config, stored.schedule)  # of which masks need the number of steps only
        return lambda num, length, rng: sample_masked(
            masked.baseline, plan, Conditioning.nothing(num, length), rng
        )

    checked = checked_samplers(sampler)
    of_sunfish = {**sunfish_samplers(sampler), **(checked if stored.config.can_check else {})}
    of_masked = {**masked_samplers(sampler), **(checked if masked.config.can_check else {})}
    return [
        *(Contender(family_of("sunfish", c), name, denoise(c)) for name, c in of_sunfish.items()),
        *(Contender(family_of("masked", c), name, unmask(c)) for name, c in of_masked.items()),
        *autoregressive_contenders(autoregressive, sampler.temperature),
    ]


def family_of(model: str, config: SamplerConfig) -> str:
    """Return the key in FAMILIES."""
    return model if config.check is None else f"{model}_checked"


def sunfish_samplers(sampler: SamplerConfig) -> dict[str, SamplerConfig]:
    """Return the samplers whose draft is the text: DDIM, drawn tokens, and tokens kept once they are sure."""
    configs = {f"DDIM {steps}": plain(sampler, "ddim", steps) for steps in DDIM_STEPS}
    configs |= {f"drawn tokens {steps}": plain(sampler, "ddpm-categorical", steps) for steps in DRAWN_STEPS}
    kept = plain(sampler, "ddpm", KEPT_STEPS, KEPT_ABOVE)
    return {**configs, f"DDPM {KEPT_STEPS}, kept above {KEPT_ABOVE:g}": kept}


def masked_samplers(sampler: SamplerConfig) -> dict[str, SamplerConfig]:
    """Return the same of masked diffusion: ancestral, and with tokens shown once they are sure."""
    configs = {f"ancestral {steps}": plain(sampler, "ddpm", steps) for steps in MASKED_STEPS}
    kept = plain(sampler, "ddpm", KEPT_STEPS, KEPT_ABOVE)
    return {**configs, f"ancestral {KEPT_STEPS}, shown above {KEPT_ABOVE:g}": kept}


def checked_samplers(sampler: SamplerConfig) -> dict[str, SamplerConfig]:
    """Return the checked samplers, the same for both models, the configured one first.

    The others differ from it in steps, and the last one in drafting again from noise (or masks) alone.
    """
    check = sampler.check or DEFAULT_CHECK
    checks = [(sampler.steps, check)]
    checks += [(steps, dataclasses.replace(check, steps=again)) for steps, again in CHECKED_STEPS]
    checks += [(16, dataclasses.replace(check, steps=8, restart_time=1.0))]
    configs = [dataclasses.replace(sampler, steps=steps, check=each) for steps, each in checks]
    return {checked_name(config): config for config in configs}


def checked_name(config: SamplerConfig) -> str:
    """Return steps of the first draft, steps of the later ones, and where these start."""
    check = config.check or DEFAULT_CHECK
    return f"{config.steps}, then {check.steps} from t = {check.restart_time:g}"


def plain(sampler: SamplerConfig, name: str, steps: int, threshold: float = 1.0) -> SamplerConfig:
    """Return a sampler without a check, at the same temperature."""
    return dataclasses.replace(
        sampler,
        name=name,
        steps=steps,
        eta=0.0,
        confidence_threshold=threshold,
        epsilon_cutoff=0.0,
        check=None,
    )


def autoregressive_contenders(stored: StoredBaseline, temperature: float) -> list[Contender]:
    """Return the autoregressive rows: any token may be drawn, or none below the cutoff."""

    def write(cutoff: float) -> SampleRows:
        return lambda num, length, rng: sample_autoregressive(
            stored.baseline, Conditioning.nothing(num, length), rng, stored.config.end_id, temperature, cutoff
        )

    names = {0.0: "a token a call", EPSILON_CUTOFF: f"a token a call, none below {EPSILON_CUTOFF:g}"}
    return [Contender("autoregressive", name, write(cutoff)) for cutoff, name in names.items()]
