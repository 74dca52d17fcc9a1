"""What is wrong with the options of a training, in one line.

jsonargparse, which reads them, answers with its usage of ninety lines and with the types of Python.
Where a text of its own is not known here, it stays, in one line.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from itertools import pairwise

from jsonargparse import Namespace

from regnet_backbones.errors import UserError

EXAMPLE = "configs/semseg/quick/unet_regnet_small_shapes.yaml"
HELP = "--help lists all options"

# How a newcomer says what jsonargparse shows as a type.
KINDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "tuple": "a list such as [1, 2]",
    "list": "a list such as [1, 2]",
    "dict": "a mapping such as {key: value}",
    "NoneType": "null",
}
EXPECTED = re.compile(r"Expected an? (?P<kind>[^\n]+?)(?:\. Got value: (?P<value>.*))?$", re.M)


# Numbers that Lightning takes at first, or refuses without the name of the option: what they must
# be, in words and as a test.
NUMBERS: dict[str, tuple[str, Callable[[float], bool]]] = {
    "seed_everything": ("0 to 4294967295", lambda value: 0 <= value < 2**32),
    "trainer.num_nodes": ("1 or more", lambda value: value >= 1),
    "trainer.accumulate_grad_batches": ("1 or more", lambda value: value >= 1),
    "trainer.val_check_interval": ("above 0", lambda value: value > 0),
}


def check_numbers(config: Namespace) -> None:
    """Check the values of Lightning's options that it does not check in words of the command line.

    Raises:
        ValueError: one is out of range.
    """
    for key, (allowed, fits) in NUMBERS.items():
        value = config[key]
        if isinstance(value, (int, float)) and not fits(value):
            raise UserError(f"--{key} must be {allowed}, got {value}")


def option_error(text: str, *, known: Iterable[str], argv: Sequence[str] = ()) -> str:
    """Say in a line what jsonargparse says in many.

    Args:
        text: of its `ArgumentError`.
        known: keys of all options, such as "data.batch_size".
        argv: the command line, for the names of its config files.
    """
    for pattern, worded in _WORDED:
        if found := pattern.search(text):
            return worded(found, list(known), list(argv))
    return " ".join(text.split())


def _unknown_option(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    option, *_ = found["key"].split("=")
    if not option.startswith("--"):
        return f"'{option}' is no option, and no option before it takes it; {HELP}"
    return _unknown(option.removeprefix("--"), known)


def _unknown_key(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    return _unknown(f"{found['group']}.{found['key']}", known)


def _unknown(key: str, known: list[str]) -> str:
    near = get_close_matches(key, known, n=1)
    return f"there is no option --{key}; {f'did you mean --{near[0]}? ' if near else ''}{HELP}"


def _wrong_value(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    text, key = found.string, found["key"]
    allowed = [kind for each in EXPECTED.finditer(text) for kind in _kinds(each["kind"])]
    value = re.search(r"(?:Got value|Given value): (.*)", text)
    if not allowed or value is None:
        return f"--{key}: {' '.join(text[found.end() :].split())}"
    return f"--{key} must be {_listed(allowed)}, got {value[1]}"


def _kinds(text: str) -> list[str]:
    """List what a type of Python allows, in the words of a command line."""
    if text.startswith("typing.Literal["):
        return text.removeprefix("typing.Literal[").removesuffix("]").replace("'", "").split(", ")
    name = re.sub(r"^<class '(.*)'>$", r"\1", text)
    return [KINDS.get(name, name)]


def _listed(words: Sequence[str]) -> str:
    """Join words: "8, 16 or 32"."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def _config_missing(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    return f"--config must be a YAML file, and there is none at {found['path']}; correct the path"


def _config_unreadable(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    files = [value for option, value in pairwise(argv) if option == "--config"]
    name = " or ".join(f"'{file}'" for file in files) or "given with --config"
    why = found["why"].replace('in "<unicode string>", ', "in ")
    return f"the file {name} is no YAML that can be read: {' '.join(why.split())}"


def _linked(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    source = found["source"]
    instead = "the data" if source == "data" else f"--{source}"
    return f"--{found['key']} is taken from {instead}; leave it out"


def _required(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    return (
        f"--{found['key']} is missing; give it, or a file that holds it, such as "
        f"--config {EXAMPLE}; {HELP}"
    )


def _no_value(found: re.Match[str], known: list[str], argv: list[str]) -> str:
    return f"{found['key']}: {found['why']}"


_WORDED: list[tuple[re.Pattern[str], Callable[[re.Match[str], list[str], list[str]], str]]] = [
    (re.compile(r"^unrecognized arguments: (?P<key>\S+)"), _unknown_option),
    (re.compile(r"^Group '(?P<group>\S+)' does not accept option '(?P<key>\S+)'"), _unknown_key),
    (re.compile(r"^Parser key \"config\":.*?(?P<path>'[^']*')", re.S), _config_missing),
    (re.compile(r"^Parser key \"(?P<key>\S+)\":\s*"), _wrong_value),
    (re.compile(r"^Problems parsing config: (?P<why>.*)", re.S), _config_unreadable),
    (re.compile(r'^Linked "(?P<key>\S+)" must be given via "(?P<source>\S+)"'), _linked),
    (re.compile(r"^argument (?:\S+\()?(?P<source>[\w.]+)\)? --> (?P<key>[\w.]+):"), _linked),
    (re.compile(r"^the following arguments are required: (?P<key>.*)"), _required),
    (re.compile(r"^argument (?P<key>\S+): (?P<why>.*)", re.S), _no_value),
]
