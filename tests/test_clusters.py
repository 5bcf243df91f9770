"""Slurm and Ray do the tasks as this machine does."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from pathlib import Path

import pytest

from sunfish.config.schema.data import DataConfig
from sunfish.errors import UserError
from tests.corpora import HERE, digest, files, run, with_sources, write_jsonl

FAKE_SLURM = {
    "sbatch": """#!/bin/bash
while [[ "$1" == --* ]]; do [[ "$1" == --export=* ]] && export "${1##*,}"; shift; done
count=$(sed -n 's/#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$1")
echo "array of $((count + 1))" >> "$FAKE_SLURM_LOG"
export SLURM_NODELIST=localhost SLURM_JOB_ID=7
for ((i = 0; i <= count; i++)); do SLURM_ARRAY_TASK_ID=$i bash "$1" >> "$FAKE_SLURM_LOG" 2>&1; done
echo "Submitted batch job 7"
""",
    "srun": '#!/bin/bash\nshift 3\nexec "$@"\n',
    "scontrol": "#!/bin/bash\necho localhost\n",
    "squeue": "#!/bin/bash\n",
}


@pytest.mark.slow
def test_slurm_does_the_tasks_through_its_queue(
    section: DataConfig, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real executor and its job scripts, with a queue that does at once what it is given."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, script in FAKE_SLURM.items():
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    changed = with_sources(section, small_tasks=False, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    slurm = dataclasses.replace(HERE, executor="slurm")
    with pytest.raises(UserError, match="sbatch is not here"):
        run(changed, tmp_path / "slurm", slurm)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM_LOG", str(tmp_path / "log"))
    run(changed, tmp_path / "slurm", slurm)
    run(changed, tmp_path / "here")
    assert digest(tmp_path / "slurm") == digest(tmp_path / "here")
    assert (tmp_path / "log").read_text().count("array of") >= 2
    (tools / "srun").write_text("#!/bin/bash\nexit 1\n")
    with pytest.raises(UserError, match=r"tokenize: 1 of 1 tasks were not done"):
        run(changed, tmp_path / "failing", slurm)


@pytest.mark.slow
def test_ray_does_the_tasks(section: DataConfig, texts: list[str], tmp_path: Path) -> None:
    ray_sharding = dataclasses.replace(HERE, executor="ray")
    changed = with_sources(section, small_tasks=False, files=files(write_jsonl(tmp_path / "a.jsonl", texts)))
    if importlib.util.find_spec("ray") is None:
        with pytest.raises(UserError, match="ray: the package is not here"):
            run(changed, tmp_path / "ray", ray_sharding)
        pytest.skip("ray is not installed")
    run(changed, tmp_path / "ray", ray_sharding)
    run(changed, tmp_path / "here")
    assert digest(tmp_path / "ray") == digest(tmp_path / "here")
