"""What tests read in a page: its parts, what it refers to, and a small report to make one of."""

import base64
from html.parser import HTMLParser
from pathlib import Path

from PIL import Image

from regnet_backbones.report.reading import (
    Metrics,
    Report,
    config_of,
    find_evaluation,
    read_report,
)
from regnet_backbones.runs.results import ImageResults, ImageScore, Table
from regnet_backbones.runs.trained import Description, find_trained

VOID = {"br", "hr", "img", "link", "meta"}
EVIL = "<script>alert('1')</script> & \"q\" $x_1$"


class Page(HTMLParser):
    """The elements of a page, in their order, which must be closed as they were opened."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.texts, self._open, self._rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self._rows.append([])
        elif tag == "td":
            self._rows[-1].append("")
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        self.texts.append((inside, data))
        if inside == "td":
            self._rows[-1][-1] += data

    def all(self, tag):
        """Return the attributes of all elements of a name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text_of(self, tag):
        """Return the texts directly in elements of a name."""
        return [text.strip() for inside, text in self.texts if inside == tag and text.strip()]

    def rows(self):
        """Return the cells of all rows of tables that have some."""
        return [[cell.strip() for cell in row] for row in self._rows if row]


def content_of(uri):
    """Return what a data: address holds."""
    return base64.b64decode(uri.partition(",")[2])


def small_report(name="circle"):
    """Return a report that has everything, with a name in all its texts."""
    pictures = [
        (Image.new("RGB", (60, 20), colour), ImageScore(f"{name}{number}", number / 8))
        for number, colour in enumerate(("red", "green"))
    ]
    return Report(
        run=Description(
            title=f"Unet on {name}",
            network=None,
            facts=(),
            changed=((name, name, name),),
            config=f"a: {name}\n",
        ),
        facts=(("backbone", name),),
        curves={
            "Losses": {name: {0: 2.0, 10: 0.01}, "loss": {0: 1.0, 10: 0.5}},
            "Learning rate": {},
            "Validation": {"_AP": {10: 12.5}},
        },
        metrics=Metrics(
            name,
            (Table(("AP", "APl"), (("bbox", (12.345, None)),)),),
            Table(("AP",), ((name, (9.5,)), ("b", (10.25,)), ("c", (None,)), ("d", (-1.0,)))),
        ),
        images=ImageResults(
            score=name,
            panels=("ground truth", "prediction"),
            available=3,
            images=(ImageScore(name, 0.0), ImageScore(name, 0.125)),
            best=(1,),
            worst=(0,),
            legend={name: (1, 2, 3)},
        ),
        pictures={"Best": (pictures[1],), "Worst": (pictures[0],)},
        speed=(("training", name),),
        missing=(name,),
        command=f"python tools/train_net.py {name}",
    )


def read_detector(folder, evaluation, *, val=None):
    """Return the report of a detector's run with an evaluation that is in its folder."""
    from regnet_backbones.detection.description import describe

    run = find_trained(folder)
    description = describe(run.config_file, val=val)
    found = find_evaluation(run, [Path(folder) / evaluation], description)
    return read_report(run, description, found)


def read_segmenter(folder, evaluation="report"):
    """Return the report of a segmenter's run with an evaluation that is in its folder."""
    from regnet_backbones.semseg.description import describe

    run = find_trained(folder)
    description = describe(config_of(run), run.checkpoint)
    found = find_evaluation(run, [Path(folder) / evaluation], description)
    return read_report(run, description, found)
