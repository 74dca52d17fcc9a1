"""What a report says, between the run that it is read from and the page that shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

from regnet_backbones.runs.results import Color

Facts = tuple[tuple[str, str], ...]  # names and values


@dataclass(frozen=True)
class Curve:
    """Values of one name over the iterations of a training."""

    name: str
    iterations: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Table:
    """Numbers by row and column; None where one is not defined."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...]], ...]


@dataclass(frozen=True)
class Metrics:
    """Results of an evaluation, in percent.

    Attributes:
        source: where they come from.
        summary: of all classes together, tables with different columns.
        per_class: a row for each class; None where single classes were not evaluated.
    """

    source: str
    summary: tuple[Table, ...]
    per_class: Table | None = None


@dataclass(frozen=True)
class Picture:
    """A validation image with truth and prediction side by side, its file, score, and details."""

    image: Image.Image
    name: str
    score: float
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for validation images.

    Attributes:
        best, worst: the images that are shown, the best and the worst one first.
        score: what the score of an image is.
        panels: what a picture shows from left to right.
        predicted: how many images were predicted.
        available: how many there are.
        legend: colours (RGB, 0 to 255) of classes, where the pictures do not name them.
    """

    best: tuple[Picture, ...]
    worst: tuple[Picture, ...]
    score: str
    panels: tuple[str, ...]
    predicted: int
    available: int
    legend: Mapping[str, Color] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything on a page.

    Attributes:
        title: what was trained.
        facts: what is said about it first.
        config: the whole, as YAML.
        changed: key, value and default of each setting that is not the framework's default.
        curves: what was logged, by the caption of a chart.
        metrics: None where nothing was evaluated.
        predictions: None where nothing was predicted.
        speed: of training and prediction, and what that was measured with.
        missing: what is not there, and why.
        command: to repeat the training.
    """

    title: str
    facts: Facts
    config: str
    changed: tuple[tuple[str, str, str], ...]
    curves: Mapping[str, tuple[Curve, ...]]
    metrics: Metrics | None
    predictions: Predictions | None
    speed: Facts
    missing: tuple[str, ...]
    command: str
