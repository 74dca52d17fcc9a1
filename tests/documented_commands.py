"""Whether a command that a document shows can be given: by the very parser of its tool.

A command of which nothing is known here is an error, so that none goes unchecked.
"""

import contextlib
import functools
import io
import re
import shlex
import subprocess
import sys
import tomllib

import torchvision
from detectron2.config import LazyConfig
from detectron2.engine import default_argument_parser
from documents import ROOT
from load_tool import load_tool
from packaging.requirements import Requirement
from torch.distributed.run import get_args_parser

from benchmarks.command import benchmark_parser
from benchmarks.peers import peers_parser
from regnet_backbones import zoo
from regnet_backbones.cli import datasets, install, models, train
from regnet_backbones.cli.design import design_command
from regnet_backbones.cli.export import export_command
from regnet_backbones.cli.push import push_command
from regnet_backbones.cli.report import report_command
from regnet_backbones.cli.run import find_config
from regnet_backbones.cli.weights import convert_weights
from regnet_backbones.detection.config import default_config, read_config
from regnet_backbones.weights.sources import find_source, is_name

# By subcommand of `regnet-backbones`; that of a segmenter's training is Lightning's.
PARSERS = {
    "completion": install.completion.parser,
    "convert-data": datasets.convert_data.parser,
    "convert-weights": convert_weights.parser,
    "design": design_command.parser,
    "evaluate": models.evaluate_command.parser,
    "export": export_command.parser,
    "install-detectron2": install.install_detectron2.parser,
    "predict": models.predict_command.parser,
    "prepare-ade20k": datasets.prepare_ade20k.parser,
    "push": push_command.parser,
    "report": report_command.parser,
    "shapes": datasets.draw_shapes.parser,
    "train-detector": train.train_detector.parser,
}

# Tools that are called otherwise than their subcommand, and those that are none.
TOOLS = {
    "make_shapes": "shapes",
    "train_net": "train-detector",
    "train_semseg": "train-segmenter",
}
OF_THE_REPOSITORY = {
    "benchmark": benchmark_parser,
    "check_compatibility": lambda _: load_tool("check_compatibility")._parser(),
}

# Detectron2's own, which take the options of its `default_argument_parser`.
DETECTRON2S = ("train_net.py", "lazyconfig_train_net.py")

VARIABLES = {"DETECTRON2_ENV_MODULE", "DETECTRON2_DATASETS", "REGNET_BACKBONES_DETECTRON2"}

# Folders of the repository; a path below one of them is there, unless it is written.
FOLDERS = ("configs", "docs", "regnet_backbones", "requirements", "tests", "tools")
WRITING = ("--output", "--write", "--picture", "--wheel-dir")


def check(command, segmenter_parser):
    """Raise for a command that could not be given.

    Args:
        command: a line, as it is shown.
        segmenter_parser: of `tools/train_semseg.py`, see `conftest.py`.
    """
    words = shlex.split(command, comments=True)
    while re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
        name = words.pop(0).partition("=")[0]
        assert name in VARIABLES, f"unknown variable {name}: {command}"
    check_paths(words)
    with parsed(command):
        known = (
            words == ["source", ".venv/bin/activate"]
            or check_pip(words)
            or check_make(words)
            or check_torchrun(words, segmenter_parser)
            or check_tool(words, segmenter_parser)
            or check_detectron2s(words)
            or check_torchvisions(words)
        )
    assert known, f"no parser is known for: {command}"


def check_paths(words):
    """Raise for a path of the repository that is not there."""
    for before, word in zip(["", *words], words, strict=False):
        inside = word.split("/")[0] in FOLDERS and "/" in word
        assert before in WRITING or not inside or (ROOT / word).exists(), f"there is no {word}"


@contextlib.contextmanager
def parsed(command):
    """Turn the exit of a parser into an error that has its words."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as error:
        raise AssertionError(f"{command}: {said.getvalue()}") from error


def check_pip(words):
    if words[0] != "pip":
        return False
    # In a process of its own: pip imports distutils, which setuptools cannot replace any more then.
    code = (
        "import sys; from pip._internal.commands import create_command; "
        "options, given = create_command(sys.argv[1]).parse_args(sys.argv[2:]); "
        "assert given or options.requirements; print(*given, sep='\\n')"
    )
    parsed = subprocess.run(
        [sys.executable, "-c", code, *words[1:]], capture_output=True, text=True, check=False
    )
    assert parsed.returncode == 0, parsed.stderr
    requirements = parsed.stdout.split()
    extras = set(_project()["optional-dependencies"])
    for text in requirements:
        named = re.sub(r"^\.", _project()["name"], text)
        requirement = Requirement(named)
        if requirement.name == _project()["name"]:
            assert requirement.extras <= extras, f"no such extra: {text}"
    return True


@functools.cache
def _project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def check_make(words):
    if words[0] != "make":
        return False
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert words[1:]
    assert set(words[1:]) <= set(targets), f"no such target: {' '.join(words)}"
    return True


def check_torchrun(words, segmenter_parser):
    if words[0] != "torchrun":
        return False
    args = get_args_parser().parse_args(words[1:])
    module = ["-m"] if args.module else []
    command = ["python", *module, args.training_script, *args.training_script_args]
    return check_tool(command, segmenter_parser)


def check_tool(words, segmenter_parser):
    """Check a command of ours; False for another one."""
    if words[:3] == ["python", "-m", "regnet_backbones"]:
        words = ["regnet-backbones", *words[3:]]
    if words[0] == "regnet-backbones":
        name, argv = words[1], words[2:]
    elif words[:3] == ["python", "-m", "benchmarks.peers"]:
        peers_parser().parse_args(words[3:])
        return True
    elif words[0] == "python" and (match := re.fullmatch(r"tools/(\w+)\.py", words[1])):
        name, argv = TOOLS.get(match[1], match[1].replace("_", "-")), words[2:]
        if match[1] in OF_THE_REPOSITORY:
            check_names(OF_THE_REPOSITORY[match[1]]("").parse_args(argv))
            return True
    else:
        return False
    if name == "train-segmenter":
        check_segmenter(argv, segmenter_parser)
    else:
        args = PARSERS[name]("").parse_args(argv)
        if name == "train-detector":
            check_config(args)
        check_names(args)
        check_sources(args)
    return True


def check_config(args):
    """Read a config of the repository, or a custom one as far as the command line has it."""
    path = ROOT / find_config(args.config_file, "detectron2")
    if path.is_file():
        read_config(path, args.opts)
    else:
        assert "/" not in args.config_file
        default_config().merge_from_list(args.opts)


def check_segmenter(argv, segmenter_parser):
    assert {"--config", "--data.layout"} & set(argv)  # or one is chosen for the data
    segmenter_parser.parse_args(train.with_config_paths(argv))


def check_names(args):
    """Raise for a name of a network that is none: networks to measure, and to export."""
    names = [*getattr(args, "variants", ()), getattr(args, "model", "")]
    if hasattr(args, "measure_size"):  # of a search: the reference of others is a table's row
        names.append(args.reference or "")
    for name in names:
        if name.startswith("regnet"):
            zoo.get(name)


def check_sources(args):
    """Raise for published weights that do not exist."""
    source = getattr(args, "source", "")
    if is_name(source):
        find_source(source)


def check_detectron2s(words):
    """Check a command of detectron2's own tools; False for another one."""
    if words[0] != "python" or words[1] not in DETECTRON2S:
        return False
    args = default_argument_parser().parse_args(words[2:])
    if args.config_file.endswith(".py"):
        assert "model" in LazyConfig.load(str(ROOT / args.config_file))
    else:
        check_config(args)
    return True


def check_torchvisions(words):
    """Check a command of torchvision's reference scripts, which no package has: its model."""
    code = words[2] if words[:2] == ["python", "-c"] else ""
    if "import regnet_backbones" not in code or 'run_path("train.py"' not in code:
        return False
    compile(code, "<documented>", "exec")
    assert words[words.index("--model") + 1] in torchvision.models.list_models()
    return True
