"""What public names say of themselves: parameters, results, errors, and shapes of tensors."""

import ast
import builtins
import dataclasses
import importlib
import inspect
import re
import textwrap

import pytest
from documented_names import PACKAGES, documented_names

NAMES = documented_names()

# A summary that begins so says what is returned.
RETURNING = ("Return ", "Build ", "Whether ")

# (N, C, H, W), (C,), (N, ceil(H / stride)) and the like.
SHAPE = re.compile(r"\([\w. /*+-]+,[^()]*(\([^()]*\)[^()]*)*\)")

# Classes whose methods are another package's, with arguments that it documents.
OURS = "regnet_backbones"


def section(text, *titles):
    """Return sections of a docstring, empty where there is none."""
    found = re.findall(
        rf"^(?:{'|'.join(titles)}):\n((?:    .*\n?|\n)+)", inspect.cleandoc(text), re.MULTILINE
    )
    return textwrap.dedent("".join(found))


def entries(text, *titles):
    """Return the names that sections explain; several may share an explanation."""
    groups = re.findall(r"^(\w[\w., ]*):", section(text, *titles), re.MULTILINE)
    return {name.strip() for names in groups for name in names.split(",")}


def own_docstring(value):
    """Return the docstring of a class itself; a dataclass without one has its signature."""
    text = vars(value).get("__doc__") or ""
    return "" if text.startswith(f"{value.__name__}(") else text


def methods_of(owner):
    """Return the public methods of a class, without those that a foreign base class explains."""
    foreign = [base for base in owner.__mro__[1:] if not base.__module__.startswith(OURS)]
    found = {}
    for name, member in vars(owner).items():
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        overrides = name != "forward" and any(hasattr(base, name) for base in foreign)
        if inspect.isfunction(member) and not name.startswith("_") and not overrides:
            found[name] = member
    return found


def functions():
    """Return public functions and methods by name, with the class of a method."""
    found = {}
    for name, value in NAMES.items():
        if inspect.isclass(value):
            for key, method in methods_of(value).items():
                found[f"{name}.{key}"] = (method, value)
        else:
            found[name] = (value, None)
    return found


FUNCTIONS = functions()
CLASSES = {name: value for name, value in NAMES.items() if inspect.isclass(value)}


def raised(function):
    """Return the errors that a function raises, itself or in a private helper beside it."""
    module = importlib.import_module(function.__module__)
    trees = [_tree_of(function)]
    for node in ast.walk(trees[0]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            helper = getattr(module, node.func.id, None)
            if node.func.id.startswith("_") and inspect.isfunction(helper):
                trees.append(_tree_of(helper))
    nodes = [node.exc for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    names = {e.func.id for e in nodes if isinstance(e, ast.Call) and isinstance(e.func, ast.Name)}
    values = {name: getattr(module, name, getattr(builtins, name, None)) for name in names}
    return {value for value in values.values() if inspect.isclass(value)}


def _tree_of(function):
    return ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]


def unexplained_errors(function, text):
    """Return the names of errors of which neither they nor a base class are explained."""
    explained = entries(text, "Raises")
    return {
        error.__name__
        for error in raised(function)
        if not explained & {base.__name__ for base in error.__mro__}
    }


def has_tensors(annotation):
    """Tell whether a type is of tensors whose shape can be told, not of state dicts."""
    text = str(annotation)
    return "torch.Tensor" in text and not re.search("Mapping|dict|Iterable", text)


def with_references(function, text):
    """Return a docstring and those of the functions whose arguments and errors it has."""
    module = importlib.import_module(function.__module__)
    names = re.findall(r"arguments and errors as of\s+`(\w+)`", text)
    return "\n\n".join([text, *(inspect.getdoc(getattr(module, name)) for name in names)])


def problems_of_function(function, owner=None):
    text = inspect.getdoc(function)
    if not text:
        return ["no docstring"]
    text = with_references(function, text)
    signature = inspect.signature(function)
    parameters = {
        name: parameter
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls")
    }
    known = entries(text, "Args") | set(re.findall(r"`(\w+)`", text))  # or in a sentence
    if owner is not None:  # what all methods take
        known |= set(re.findall(r"`(\w+)`", inspect.getdoc(owner) or ""))
    found = [f"Args lacks {name}" for name in parameters if name not in known]
    returns = signature.return_annotation
    if returns not in (None, "None") and not text.startswith(RETURNING):
        found += [] if section(text, "Returns", "Yields") else ["no Returns"]
    found += [f"Raises lacks {name}" for name in sorted(unexplained_errors(function, text))]
    annotations = [returns, *(parameter.annotation for parameter in parameters.values())]
    if any(map(has_tensors, annotations)) and not SHAPE.search(text):
        found.append("no shape (N, C, H, W) of tensors")
    return found


def has_written_init(value):
    """Whether a class has an `__init__` of its own that `dataclass` has not made."""
    return "__init__" in vars(value) and value.__init__.__code__.co_filename != "<string>"


def problems_of_class(value):
    text = own_docstring(value)
    if not text:
        return ["no docstring"]
    bases = [base for base in value.__mro__ if base.__module__.startswith(OURS)]
    known = set().union(*(entries(own_docstring(base), "Args", "Attributes") for base in bases))
    own = {name: vars(value)[name] for name in ("__init__", "__post_init__") if name in vars(value)}
    if dataclasses.is_dataclass(value) and not has_written_init(value):
        wanted = [field.name for field in dataclasses.fields(value) if field.init]
        own.pop("__init__", None)  # which `dataclass` writes
    elif getattr(value, "_is_protocol", False) or "__init__" not in own:
        wanted, own = [], {}
    else:
        wanted = list(inspect.signature(value).parameters)
    known |= {"_", *re.findall(r"`(\w+)`", text)}
    found = [f"Args lacks {name}" for name in wanted if name not in known]
    for maker in own.values():
        found += [f"Raises lacks {name}" for name in sorted(unexplained_errors(maker, text))]
    return found


def problems():
    """Return what is lacking, by name."""
    found = {name: problems_of_class(value) for name, value in CLASSES.items()}
    for name, (function, owner) in FUNCTIONS.items():
        found[name] = problems_of_function(function, owner)
    return {key: value for key, value in found.items() if value}


def test_every_public_name_says_what_it_takes_gives_and_raises():
    lacking = problems()
    assert not lacking, "\n".join(f"{name}: {value}" for name, value in lacking.items())


def test_the_names_of_the_reference_are_looked_at():
    assert len(CLASSES) > 30
    assert len(FUNCTIONS) > 60


@pytest.mark.parametrize("package", PACKAGES)
def test_every_class_and_function_of_a_package_has_a_place_in_the_reference(package):
    module = importlib.import_module(package)
    values = {name: getattr(module, name) for name in module.__all__}
    callables = {n: v for n, v in values.items() if inspect.isclass(v) or inspect.isfunction(v)}
    documented = set(NAMES.values())
    assert not [name for name, value in callables.items() if value not in documented]


def test_offenders_are_found():
    def vague(images: "torch.Tensor", size: int) -> int:  # noqa: F821
        """Do something.

        Args:
            images: to be done something with.
        """
        if size < 0:
            raise ValueError("size must be at least 0")
        return size

    assert problems_of_function(vague) == [
        "Args lacks size",
        "no Returns",
        "Raises lacks ValueError",
        "no shape (N, C, H, W) of tensors",
    ]
    assert problems_of_function(lambda x: x) == ["no docstring"]

    @dataclasses.dataclass
    class Undescribed:
        side: int

    assert problems_of_class(Undescribed) == ["no docstring"]
    Undescribed.__doc__ = "A square.\n\n    Attributes:\n        sides: four.\n    "
    assert problems_of_class(Undescribed) == ["Args lacks side"]
