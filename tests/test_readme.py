"""What the README promises beside what every document does (`test_documents.py`)."""

import contextlib
import re

import pytest
from documents import ROOT, commands
from load_tool import load_tool

README = (ROOT / "README.md").read_text()


def test_the_two_commands_are_there():
    named = {command.split()[1] for command in commands(README, "make ")}
    assert {"demo", "test"} <= named


def test_ci_runs_the_readmes_test_command_then_lint():
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("make test\n") < script.index("make lint\n")


@pytest.mark.parametrize("target", re.findall(r"`make (\w+)`", README))
def test_targets_of_the_makefile_that_it_names_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("tool", sorted((ROOT / "tools").glob("*.py")), ids=lambda p: p.name)
def test_every_tool_explains_itself(tool, capsys):
    module = load_tool(tool.stem)
    with contextlib.suppress(SystemExit):  # of argparse
        assert module.main(["--help"]) == 0
    assert "usage:" in capsys.readouterr().out
    assert f"tools/{tool.name}" in module.__doc__
    assert len(tool.read_text().splitlines()) < 100
