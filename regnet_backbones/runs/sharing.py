"""A trained model as a folder to share: weights, config and a card; no pickle, nothing to run.

    detector    config.yaml, model.safetensors, README.md
    segmenter   SMP's config.json and model.safetensors, regnet_backbones.json, README.md

The card has the facts of the run. Hugging Face's hub takes such a folder as it is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import EvalResult, HfApi, ModelCardData

from regnet_backbones import zoo
from regnet_backbones.errors import UserError
from regnet_backbones.files import write_whole
from regnet_backbones.runs.results import (
    PER_CLASS,
    SEGMENTATION,
    WrittenEvaluation,
    read_evaluation,
)
from regnet_backbones.runs.trained import Kind, Trained
from regnet_backbones.weights.sources import URL_PREFIXES, find_source, first_line, is_name

CARD_NAME = "README.md"

TASKS: Mapping[Kind, str] = {"detector": "object-detection", "segmenter": "image-segmentation"}

# How a path of a machine begins.
_PATH = re.compile(r"(/|~|\.{1,2}/|[A-Za-z]:[\\/]|file:)")


@dataclass(frozen=True)
class Facts:
    """What a card has of a model."""

    title: str  # architecture and network
    classes: tuple[str, ...]  # names in the order of their numbers
    weights: str = ""  # the name of what the training started from; "" for a file or nothing
    licence: str | None = None  # of these, None where unknown
    images: Mapping[str, int] = field(default_factory=dict)  # number by "train" and "val"
    usage: str = ""  # further lines of Python that load the model


def is_path(value: object) -> bool:
    """Whether a value of a config is a path of this machine, which is not shared."""
    return isinstance(value, str) and bool(_PATH.match(value))


def name_and_licence(weights: str | None, network: object = None) -> tuple[str, str | None]:
    """Return the public name of weights, "" without one, and their licence, None where unknown.

    `weights` is a source, or a tag of a network of the zoo. A URL may hold a key: it is not shared.
    """
    if weights and isinstance(network, str) and network in zoo.names() and not is_name(weights):
        variant = zoo.get(network)
        tag = variant.default_tag if weights == "imagenet" else weights
        if tag in variant.weights:
            weights = f"timm://{variant.name}.{tag}"
    if not weights or not is_name(weights):
        return "", None
    name = "" if weights.startswith(URL_PREFIXES) else weights
    return name, find_source(weights).licence


def check_unchanged(
    trained: Trained, state: Mapping[str, torch.Tensor], shared: Mapping[str, torch.Tensor]
) -> None:
    """Raise UserError if weights that were read back are not those of the run."""
    if different := [name for name in state if not torch.equal(state[name], shared[name])]:
        raise UserError(f"weights of '{trained.checkpoint}' changed when shared: {different[:3]}")


def write_card(
    folder: Path, trained: Trained, facts: Facts, *, repo: str, results: Sequence[Path]
) -> None:
    """Write the card of a model, with the numbers of the first of `results` that is of it."""
    evaluations = filter(None, (_evaluation(trained, each) for each in results))
    evaluation = next(evaluations, None)
    task, numbers = TASKS[trained.kind], _numbers(trained, evaluation) if evaluation else {}
    framework = "detectron2" if trained.kind == "detector" else "segmentation-models-pytorch"
    data = ModelCardData(
        license=facts.licence,
        library_name="regnet_backbones",
        pipeline_tag=task,
        tags=["regnet", framework, "pytorch"],
        model_name=repo.partition("/")[2],
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type="custom",
                dataset_name=dataset,
                metric_type=name,
                metric_name=name,
                metric_value=round(value, 2),
            )
            for (dataset, name), value in numbers.items()
        ]
        or None,
    )
    lines = [f"# {facts.title}", ""]
    lines += [f"A {trained.kind} of {len(facts.classes)} classes: {', '.join(facts.classes)}.", ""]
    if facts.images:
        sizes = ", ".join(f"{count:,} {part}" for part, count in facts.images.items())
        lines += [f"Images: {sizes}.", ""]
    licence = f" (licence: {facts.licence})" if facts.licence else ""
    if facts.weights:
        lines += [f"The training started from `{facts.weights}`{licence}.", ""]
    if numbers:
        lines += ["| dataset | metric | % |", "|---|---|---|"]
        lines += [f"| {of} | {name} | {value:.2f} |" for (of, name), value in numbers.items()]
        lines += ["", *([f"Evaluated with {evaluation.how}.", ""] if evaluation.how else [])]
    lines += ["## Use", "", "    pip install regnet-backbones"]
    lines += [f"    regnet-backbones predict hf-hub:{repo} photos/ --output predictions", ""]
    load = f'import regnet_backbones\n\nmodel = regnet_backbones.load("hf-hub:{repo}")'
    lines += ["```python", load, 'result = model.predict("photo.jpg")', "```", ""]
    if facts.usage:
        lines += ["```python", facts.usage, "```", ""]
    text = f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(lines)
    write_whole(folder / CARD_NAME, lambda file: file.write(text.encode()))


def upload(folder: Path, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload a folder to the Hugging Face hub, as one commit, and return the address of the model.

    A repository or branch (`revision`) that does not exist is made.
    """
    api = HfApi()
    try:
        url = api.create_repo(repo, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, revision=revision)
    except Exception as error:  # the client raises errors of several libraries
        text = f"could not upload to {repo}: {first_line(error)}. Log in with `hf auth login` or"
        raise UserError(f"{text} HF_TOKEN, or write the files with --dry-run FOLDER") from error
    return str(url)


def check_new_folder(folder: Path) -> None:
    """Raise UserError for a folder that is not empty."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise UserError(f"--dry-run must be a new or empty folder, got '{folder}'")


def check_repo(repo: str) -> None:
    """Raise UserError for what is not the name of a repository."""
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo):
        raise UserError(f"a repository on the hub must be OWNER/NAME, got '{repo}'")


def _evaluation(trained: Trained, folder: Path) -> WrittenEvaluation | None:
    """Return a whole evaluation of the checkpoint itself, not of a file that was exported of it."""
    found = read_evaluation(folder)
    if found is None or not found.images.complete or found.settings.get("exported"):
        return None
    return found if found.is_of(trained.checkpoint) else None


def _numbers(trained: Trained, found: WrittenEvaluation) -> dict[tuple[str, str], float]:
    """Return numbers in percent by dataset and metric."""
    if trained.kind == "segmenter":
        known = {name: found.results.get(key) for key, name in SEGMENTATION.items()}
        return {("validation", name): 100 * v for name, v in known.items() if v is not None}
    return {
        (dataset, f"{task} {name}"): value
        for dataset, tasks in found.results.items()
        for task, metrics in tasks.items()
        for name, value in metrics.items()
        if value is not None and name != "min_score" and not name.startswith(PER_CLASS)
    }
