"""The report: logs, scores of images, and the page, each against what was worked out by hand."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from load_tool import load_tool
from pycocotools.coco import COCO
from report_pages import EVIL, Page, content_of, small_report
from torch.utils.tensorboard import SummaryWriter

from regnet_backbones.report import command, logs
from regnet_backbones.report.content import Curve, Curves
from regnet_backbones.report.page import render, write_page
from regnet_backbones.report.runs import find_run
from regnet_backbones.report.scores import Matches, Score, best_and_worst, match_instances
from regnet_backbones.report.semantic import count_pixels, mean_iou
from regnet_backbones.runs.trained import read_metrics

# Logs


def test_rows_of_metrics_are_merged_and_what_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == []
    path.write_text(
        '{"iteration": 19, "total_loss": 3.0, "time": 0.25}\n'
        '{"iteration": 39, "total_loss": 2.0, "time": 0.75}\n'
        '{"bbox/AP": 12.0, "iteration": 39}\n'
        '{"iteration": 19, "total_loss": 2.5, "time": 0.5}\n'  # of a resumed run
        '{"iteration": 59, "total_loss": NaN, "time": 0.5}\n'
        '{"iteration": 79, "total_l'
    )
    rows = read_metrics(path)
    assert [row["iteration"] for row in rows] == [19, 39, 59]
    assert rows[1] == {"iteration": 39, "total_loss": 2.0, "time": 0.75, "bbox/AP": 12.0}
    assert logs.curve_of_rows(rows, "total_loss") == Curve("total_loss", (19, 39), (2.5, 2.0))
    assert logs.curve_of_rows(rows, "bbox/AP", name="AP") == Curve("AP", (39,), (12.0,))
    assert logs.seconds_per_iteration(rows) == 0.5
    assert logs.seconds_per_iteration([]) is None


def test_events_are_those_that_tensorboard_wrote(tmp_path):
    assert logs.read_events(tmp_path / "none") == {}
    with SummaryWriter(tmp_path) as writer:
        for step, value, seconds in ((9, 2.0, 100), (19, 1.5, 105), (29, 1.0, 135), (39, 1, 140)):
            writer.add_scalar("loss", value, step, walltime=seconds)
        writer.add_scalar("miou", 0.25, 39)
    events = logs.read_events(tmp_path)
    assert list(events) == ["loss", "miou"]
    curve = logs.curve_of_events(events["loss"], "loss")
    assert curve == Curve("loss", (9, 19, 29, 39), (2.0, 1.5, 1.0, 1.0))
    assert logs.curve_of_events(events["miou"], "mIoU", factor=100).values == (25.0,)
    assert logs.seconds_per_step(events["loss"]) == 0.5  # the validation in between aside
    assert logs.seconds_per_step(events["miou"]) is None


# Scores


def boxes(*given, **more):
    """Return entries of COCO of boxes that are (image, category, x, y, width, height)."""
    return [
        {"id": n, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0, **more}
        | {"area": box[2] * box[3]}
        for n, (image, category, *box) in enumerate(given, 1)
    ]


@pytest.fixture
def truth():
    annotations = boxes(
        *((1, 1, 0, 0, 10, 10), (1, 1, 20, 20, 10, 10), (2, 2, 0, 0, 10, 10)),
        *((4, 1, 0, 0, 40, 40), (5, 1, 0, 0, 10, 10), (6, 1, 0, 0, 10, 10)),
    )
    annotations[3]["iscrowd"] = 1
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": number, "height": 50, "width": 50} for number in range(1, 8)],
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def test_matches_of_images(truth, capsys):
    capsys.readouterr()
    results = boxes(
        *((1, 1, 0, 0, 10, 10), (1, 1, 0, 0, 10, 9), (1, 1, 35, 0, 5, 5)),  # one object, once
        (2, 1, 0, 0, 10, 10),  # of another class
        (4, 1, 5, 5, 10, 10),  # one of a crowd
        *((5, 1, 0, 0, 10, 5.1), (6, 1, 0, 0, 10, 4.9)),  # IoU 0.51 and 0.49
        score=0.9,
    )
    found = match_instances(truth, results, range(1, 8), kind="bbox")
    assert found == {
        1: Matches(found=1, made_up=2, missed=1),
        2: Matches(found=0, made_up=1, missed=1),
        3: Matches(),
        4: Matches(),
        5: Matches(found=1),
        6: Matches(made_up=1, missed=1),
        7: Matches(),
    }
    assert [found[number].f1 for number in (1, 2, 3, 4, 5)] == [0.4, 0, None, None, 1]
    assert found[1].score(8) == Score(8, 0.4, "1 found, 1 missed, 2 made up", 2)
    assert capsys.readouterr().out == ""


def test_nothing_is_found_where_nothing_is_predicted(truth):
    assert match_instances(truth, [], [1, 3], kind="bbox") == {1: Matches(missed=2), 3: Matches()}


def test_mean_iou_is_over_the_classes_that_are_there():
    truth = torch.tensor([[0, 0, 0], [1, 1, 255]])
    prediction = torch.tensor([[0, 0, 1], [1, 1, 3]])
    matrix = count_pixels(truth, prediction, classes=4, ignore=255)
    assert matrix.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert mean_iou(matrix) == pytest.approx((2 / 3 + 2 / 3) / 2)
    # A class that is only predicted counts with 0.
    matrix = count_pixels(truth[0], torch.tensor([0, 0, 2]), classes=4, ignore=255)
    assert mean_iou(matrix) == pytest.approx((2 / 3 + 0) / 2)
    assert mean_iou(torch.zeros(4, 4)) is None


def test_the_best_and_the_worst_are_different_images():
    values = [0.5, None, 1.0, 0.1, 1.0, 0.3]
    scores = [Score(n, value, size=n) for n, value in enumerate(values)]
    best, worst = best_and_worst(scores, count=2)
    assert [score.index for score in best] == [4, 2]  # of equal ones that of more objects
    assert [score.index for score in worst] == [3, 5]
    best, worst = best_and_worst(scores)
    assert [[score.index for score in each] for each in (best, worst)] == [[4, 2, 0], [3, 5]]
    assert best_and_worst(scores[:2]) == ([scores[0]], [])
    assert best_and_worst([]) == ([], [])


# The page


def test_the_page_needs_nothing_else():
    page = Page(render(small_report()))
    for tag, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")]
    (style,), (script,) = page.text_of("style"), page.text_of("script")
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"https?:|fetch|import|XMLHttp", script)
    svgs = [i["src"] for i in page.all("img") if i["src"].startswith("data:image/svg+xml")]
    assert len(svgs) == 4  # of two charts, for light and dark
    for svg in map(content_of, svgs):
        for element in ElementTree.fromstring(svg).iter():
            references = [v for n, v in element.items() if n.endswith("href")]
            assert all(reference.startswith("#") for reference in references)
        addresses = set(re.findall(rb'https?://[^"\s]+', svg))
        assert all(address.startswith(b"http://www.w3.org/") for address in addresses), addresses


def test_the_page_is_whole_html_and_says_what_its_pictures_show():
    text = render(small_report())
    assert text.startswith("<!DOCTYPE html>")
    page = Page(text)
    assert page.all("html") == [{"lang": "en"}]
    assert page.text_of("h1") == ["Unet on circle"]
    assert page.text_of("h2") == [
        *("Results", "Training", "Predictions", "Speed", "Configuration", "To repeat it")
    ]
    alts = [image["alt"] for image in page.all("img")]
    assert alts[0] == (
        "Losses: circle from 2 at iteration 0 to 0.01 at 10; loss from 1 at iteration 0 to 0.5 at "
        "10"
    )
    assert alts[1] == alts[0]  # the same chart on dark paper
    assert alts[4] == "circle1: ground truth, prediction side by side"
    assert "The first 2 of 3 validation images were predicted (--images)." in text


def test_numbers_are_shown_with_two_digits_and_sorted_with_more():
    page = Page(render(small_report()))
    assert page.rows()[:2] == [["bbox", "12.35", "–"], ["circle", "9.50"]]
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values == ["12.345", "", "9.5", "10.25", "", "-1"]


def test_names_of_the_user_are_text():
    text = render(small_report(EVIL))
    page = Page(text)
    assert len(page.all("script")) == text.count("<script>") == 1
    assert page.text_of("h1") == [f"Unet on {EVIL}"]
    assert [EVIL, "9.50"] in page.rows()
    assert [EVIL, EVIL, EVIL] in page.rows()
    assert page.text_of("pre") == [f"a: {EVIL}", f"python tools/train_net.py {EVIL}"]
    assert page.all("img")[4]["alt"] == f"{EVIL}1: ground truth, prediction side by side"


def test_what_is_not_there_has_no_part_of_the_page():
    report = replace(
        small_report(), curves=Curves(), metrics=None, predictions=None, speed=(), missing=()
    )
    page = Page(render(report))
    assert page.text_of("h2") == ["Configuration", "To repeat it"]
    assert page.all("img") == []


def test_a_page_is_the_same_each_time(tmp_path):
    for name in "ab":
        write_page(tmp_path / name, small_report())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Runs, and what a newcomer gets wrong


def test_what_is_no_run_is_said_in_a_line(tmp_path, capsys):
    main = load_tool("report").main
    (tmp_path / "config.yaml").write_text("VERSION: 2\n")
    for path, said in (
        (tmp_path, "is no run: a detector's has config.yaml and metrics.json or a checkpoint"),
        (tmp_path / "none", "give the folder of a run, such as output/demo"),
        (tmp_path / "config.yaml", "is no checkpoint"),
    ):
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert said in error
        assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_runs_without_a_checkpoint_are_known_by_their_logs(tmp_path):
    detector, segmenter = tmp_path / "detector", tmp_path / "segmenter"
    (segmenter / "tensorboard").mkdir(parents=True)
    (segmenter / "tensorboard" / "config.yaml").touch()
    detector.mkdir()
    for name in ("config.yaml", "metrics.json"):
        (detector / name).touch()
    assert find_run(detector).kind == "detector"
    assert find_run(detector).config_file == detector / "config.yaml"
    assert find_run(segmenter).kind == "segmenter"
    assert find_run(segmenter).trained is None


def test_a_number_of_images_is_at_least_one(tmp_path, capsys):
    (tmp_path / "config.yaml").touch()
    (tmp_path / "metrics.json").write_text(json.dumps({"iteration": 1}))
    assert load_tool("report").main([str(tmp_path), "--images", "0"]) == 2
    assert "--images must be at least 1, got 0" in capsys.readouterr().err


def test_packages_that_are_not_installed_are_named(tmp_path, capsys, monkeypatch):
    main = load_tool("report").main
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "jinja2" else name)
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "a report takes jinja2, which is not installed" in error
    assert "pip install 'regnet_backbones[report]'" in error
