"""Files of the repository that other tools read: workflow, hooks, citation, Slurm, completion."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml
from documented_commands import PARSERS

import regnet_backbones
from regnet_backbones.cli import main

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = [
    *(ROOT / ".github").rglob("*.yml"),
    *(ROOT / name for name in (".pre-commit-config.yaml", ".readthedocs.yaml", "CITATION.cff")),
]

# What Slurm's commands do in a batch script, as far as ours go: `srun` once, on the first node.
SLURM = {
    "scontrol": "echo node1",
    "srun": 'exec "$@"',
    "regnet-backbones": 'printf "%q " "$@"',
}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: path.name)
def test_settings_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text()), dict)


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    (job,) = workflow["jobs"].values()
    assert job["steps"][-1]["run"].endswith(".ci/run")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == regnet_backbones.__version__


@pytest.mark.parametrize("name", ["train_detector", "train_segmenter"])
def test_batch_scripts_start_a_training(name, tmp_path):
    for command, script in SLURM.items():
        (tmp_path / command).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / command).chmod(0o755)
    variables = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        **{f"SLURM_{key}": value for key, value in {"NNODES": "2", "NODEID": "1"}.items()},
        "SLURM_JOB_NODELIST": "node[1-2]",
    }
    script = ["bash", ROOT / "tools" / "slurm" / f"{name}.sbatch", "--resume"]
    printed = subprocess.run(script, env=variables, capture_output=True, text=True, check=True)
    subcommand, *words = shlex.split(printed.stdout)
    assert "--resume" in words
    if name == "train_detector":
        args = PARSERS[subcommand]("").parse_args(words)
        assert (args.num_machines, args.machine_rank, args.num_gpus) == (2, 1, 8)
        assert args.dist_url == "tcp://node1:29500"
    else:
        assert words[words.index("--trainer.num_nodes") + 1] == "2"


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("train-detector --val-f", "--val-fraction"),
        ("design show --bot", "--bottleneck-multiplier"),
    ],
)
def test_bash_completes_options(words, option, capsys, tmp_path):
    assert main.main(["completion", "bash"]) == 0
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    code = f"""
    source completion
    COMP_WORDS=(regnet-backbones {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    $(complete -p regnet-backbones | sed 's/.*-F \\([^ ]*\\).*/\\1/')
    echo "${{COMPREPLY[@]}}"
    """
    command = ["bash", "-c", code]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert option in found.stdout, found.stderr
