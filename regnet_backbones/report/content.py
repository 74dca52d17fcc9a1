"""What a report says, between the run that it is read from and the page that shows it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Curve:
    """Values of one name over a training.

    Attributes:
        name: what the values are of.
        iterations: rising.
        values: one for each of them.
    """

    name: str
    iterations: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """What a training logged.

    Attributes:
        losses: the sum and its parts.
        learning_rate: one curve, or one for each group of parameters.
        validation: in percent.
    """

    losses: tuple[Curve, ...] = ()
    learning_rate: tuple[Curve, ...] = ()
    validation: tuple[Curve, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A key of a config whose value is not the framework's default.

    Attributes:
        key: with dots between its parts.
        value: as text.
        default: as text, or that there is none.
    """

    key: str
    value: str
    default: str


@dataclass(frozen=True)
class Config:
    """The config of a run.

    Attributes:
        changed: what differs from the framework's defaults.
        text: the whole, as YAML.
    """

    changed: tuple[Setting, ...]
    text: str


@dataclass(frozen=True)
class Table:
    """Numbers by row and column.

    Attributes:
        columns: their names.
        rows: the name of each, and a number for each column, None where it is not defined.
    """

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
    """A validation image with truth and prediction side by side.

    Attributes:
        image: the panels, RGB.
        name: of the image's file.
        score: of the prediction, from 0 to 1, higher is better.
        note: what the score is made of.
    """

    image: Image.Image
    name: str
    score: float
    note: str = ""


@dataclass(frozen=True)
class Predictions:
    """What a model predicts for validation images.

    Attributes:
        best, worst: the chosen images, the best and the worst one first.
        score: what the score of an image is.
        panels: what a picture shows from left to right.
        predicted: how many images were predicted.
        available: how many there are.
        milliseconds: median time of an image, in ms; None where there was none to time.
        legend: colours (RGB, 0 to 255) of classes, where the pictures do not name them.
    """

    best: tuple[Picture, ...]
    worst: tuple[Picture, ...]
    score: str
    panels: tuple[str, ...]
    predicted: int
    available: int
    milliseconds: float | None = None
    legend: Mapping[str, Color] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """Everything on a page.

    Attributes:
        title: what was trained.
        facts: name and value of what is said about it first.
        config: of the run.
        curves: what was logged, as far as there is a log.
        metrics: None where nothing was evaluated.
        predictions: None where nothing could be predicted.
        speed: as `facts`, of its speed, and of what that was measured with.
        missing: what is not there, and why.
        command: to repeat the training.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    config: Config
    curves: Curves
    metrics: Metrics | None
    predictions: Predictions | None
    speed: tuple[tuple[str, str], ...]
    missing: tuple[str, ...]
    command: str
