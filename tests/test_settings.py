"""Settings: what is asked for, and the folder's recommendation for all else."""

from __future__ import annotations

import dataclasses

import pytest

from sunfish.errors import UserError
from sunfish.runtime.folder import Measured
from sunfish.runtime.generator import Sampler
from sunfish.runtime.settings import Settings, few_steps, resolve
from tests.exports import CHECKED

pytest_plugins = ["tests.exports"]


def test_settings_resolve_to_the_folder_s_where_nothing_is_asked(writer: Sampler) -> None:
    how = resolve(Settings(seed=1), writer.config)
    assert how.config == dataclasses.replace(CHECKED, gap_check=None) and how.seed == 1
    named = resolve(Settings(sampler="ddpm", steps=50, seed=1), writer.config).config
    assert (named.name, named.steps, named.check) == ("ddpm", 50, CHECKED.check)  # the check stays on
    assert resolve(Settings(check=False), writer.config).config.check is None
    used = resolve(Settings(redraft_steps=4, seed=1), writer.config).to_dict()
    assert set(used) == {field.name for field in dataclasses.fields(Settings)} and used["redraft_steps"] == 4


def test_a_sampler_by_name_keeps_no_token_early(writer: Sampler) -> None:
    keeps = dataclasses.replace(writer.config, sampler=dataclasses.replace(CHECKED, confidence_threshold=0.5))
    assert resolve(Settings(), keeps).config.confidence_threshold == 0.5
    assert resolve(Settings(sampler="ddim"), keeps).config.confidence_threshold == 1.0
    assert (
        resolve(Settings(sampler="ddim", confidence_threshold=0.7), keeps).config.confidence_threshold == 0.7
    )


def test_texts_with_gaps_have_a_check_of_their_own(writer: Sampler) -> None:
    config = writer.config
    assert resolve(Settings(), config, has_gaps=True).config.check == CHECKED.gap_check
    assert resolve(Settings(), config).config.check == CHECKED.check
    asked = resolve(Settings(redraft_steps=4), config, has_gaps=True).config.check
    assert asked == dataclasses.replace(CHECKED.gap_check, steps=4)
    assert resolve(Settings(check=False), config, has_gaps=True).config.check is None
    alike = dataclasses.replace(CHECKED, gap_check=None)
    assert alike.for_gaps() == alike  # without one, gaps are checked as all else


def test_a_check_that_was_never_learned(writer: Sampler) -> None:
    plain = dataclasses.replace(
        writer.config, can_check=False, sampler=dataclasses.replace(CHECKED, check=None)
    )
    with pytest.raises(UserError, match="did not learn to check"):
        resolve(Settings(check=True), plain)
    with pytest.raises(UserError, match="--check-epsilon: belongs to the check, which is off; add --check"):
        resolve(Settings(check_epsilon=0.1), plain)
    able = dataclasses.replace(plain, can_check=True)
    assert resolve(Settings(check=True), able).config.check is not None


def test_far_fewer_steps_than_measured_are_noted(writer: Sampler) -> None:
    measured = (Measured("ddpm", 100, False, 0.4, 0.9), Measured("ddpm", 1000, False, 0.5, 0.9))
    folder = dataclasses.replace(writer.config, measured=measured)
    note = lambda settings: few_steps(resolve(settings, folder).config, folder)  # noqa: E731
    assert note(Settings()) is None and note(Settings(sampler="ddpm", check=False, steps=50)) is None
    assert "49 steps are far fewer" in str(note(Settings(sampler="ddpm", check=False, steps=49)))
    assert "(4)" in str(note(Settings(steps=1)))


def test_a_sampler_that_was_measured_to_write_salad_is_noted(writer: Sampler) -> None:
    measured = (
        Measured("ddim", 10, False, 0.01, 0.505), Measured("ddim", 50, False, 0.6, 0.9),
        Measured("ddim", 4, True, 0.95, 1.0),
    )  # fmt: skip
    folder = dataclasses.replace(writer.config, measured=measured)
    note = lambda **asked: few_steps(resolve(Settings(**asked), folder).config, folder)  # noqa: E731
    salad = str(note(sampler="ddim", steps=12, check=False))
    assert salad.startswith("ddim of 10 steps, unchecked, wrote 1.0% consistent texts and 50.5% valid")
    assert salad.endswith("ddim of 4 steps, checked, wrote 95.0% consistent texts and 100.0% valid sentences")
    assert note() is None and note(sampler="ddim", steps=50, check=False) is None
    assert note(sampler="ddpm", steps=8, check=False) is None  # nobody measured it
