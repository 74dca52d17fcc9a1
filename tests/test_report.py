"""The report: logs, the page, and what is not a run, each against what was worked out by hand."""

import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
from load_tool import load_tool
from report_pages import EVIL, Page, content_of, small_report
from torch.utils.tensorboard import SummaryWriter

from regnet_backbones.report.logs import read_log
from regnet_backbones.report.page import render, write_page
from regnet_backbones.report.reading import Metrics
from regnet_backbones.runs.confusion import Confusion
from regnet_backbones.runs.results import Table, tables_of
from regnet_backbones.runs.trained import read_metrics

# Logs


def test_rows_of_metrics_are_merged_and_what_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.json"
    assert read_metrics(path) == []
    assert read_log(tmp_path, "detector") == read_log(tmp_path, "segmenter") == {}
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
    log = read_log(tmp_path, "detector")
    assert list(log["total_loss"]) == [19, 39, 59]
    assert (log["total_loss"][19], log["bbox/AP"]) == (2.5, {39: 12.0})
    assert log["time"] == {19: 0.5, 39: 0.75, 59: 0.5}


def test_events_are_those_that_tensorboard_wrote(tmp_path):
    with SummaryWriter(tmp_path / "tensorboard") as writer:
        for step, value, seconds in ((9, 2.0, 100), (19, 1.5, 105), (29, 1.0, 135), (39, 1, 140)):
            writer.add_scalar("train/loss", value, step, walltime=seconds)
        writer.add_scalar("val/miou", 0.25, 39)
        writer.add_scalar("val/iou/sky", 0.5, 39)
    assert read_log(tmp_path, "segmenter") == {
        "loss": {9: 2.0, 19: 1.5, 29: 1.0, 39: 1.0},
        "segmentation/mIoU": {39: 25.0},
        "segmentation/IoU-sky": {39: 50.0},
        "time": {19: 0.5, 29: 3.0, 39: 0.5},  # with the validation in between
    }


def test_tasks_of_the_same_metrics_share_a_table():
    summary, classes = tables_of(
        {
            "bbox": {"AP": 1.0, "AP50": 2.0, "AP-a-b": 3.0},
            "segm": {"AP": 4.0, "AP50": 5.0, "AP-a-b": 6.0},
            "sem_seg": {"mIoU": 7.0, "IoU-sky": 8.0, "ACC-sky": 9.0},
        }
    )
    assert summary == (
        Table(("AP", "AP50"), (("bbox", (1.0, 2.0)), ("segm", (4.0, 5.0)))),
        Table(("mIoU",), (("sem_seg", (7.0,)),)),
    )
    assert classes == Table(
        ("bbox AP", "segm AP", "sem_seg IoU", "sem_seg ACC"),
        (("a-b", (3.0, 6.0, None, None)), ("sky", (None, None, 8.0, 9.0))),
    )
    assert tables_of({"bbox": {"AP": 1.0}})[1] is None


def test_a_report_computes_nothing():
    code = "import sys, regnet_backbones.report.reading, regnet_backbones.report.page; print("
    code += "{'torch', 'detectron2', 'lightning', 'pycocotools', 'torchmetrics'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "set()\n", result.stderr


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


def test_several_runs_are_next_to_each_other():
    page = Page(render(small_report(), small_report("square")))
    assert page.text_of("h1") == ["Unet on circle", "Unet on square"]
    assert page.text_of("title") == ["Unet on circle, Unet on square: training report"]
    assert len(page.all("article")) == 2
    assert [figure["alt"].partition(":")[0] for figure in page.all("img")].count("square1") == 1


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
    assert "2 of 3 validation images were predicted, evenly spread (--images)." in text


def test_numbers_are_shown_with_two_digits_and_sorted_with_more():
    page = Page(render(small_report()))
    assert page.rows()[:2] == [["bbox", "12.35", "–"], ["circle", "9.50"]]
    values = [cell["data-value"] for cell in page.all("td") if "data-value" in cell]
    assert values == ["12.345", "", "9.5", "10.25", "", "-1"]


def test_a_threshold_is_not_rounded_up():
    table = Table(("F1", "min_score"), (("bbox", (50.0, 0.4379)),))
    page = Page(render(replace(small_report(), metrics=Metrics("x", (table,)))))
    assert page.rows()[0] == ["bbox", "50.00", "0.437"]


def test_confusions_are_a_matrix_or_a_list():
    def shown(counts, unit="objects"):
        labels = [f"<{n}>" for n in range(len(counts))]
        matrix = {"bbox": Confusion(labels, counts, unit)}
        metrics = replace(small_report().metrics, confusion=matrix)
        return Page(render(replace(small_report(), metrics=metrics)))

    page = shown([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    cells = [cell for cell in page.all("td") if "--share" in cell.get("style", "")]
    shares = [float(cell["style"].partition(":")[2]) for cell in cells]
    assert shares == [0.75, 0.25, 0, 0, 0, 0, 0.25, 0, 0.75]
    assert "<0>" in page.text_of("th")
    assert ["6", "2", ""] in page.rows()
    assert "<0> predicted as <1>: 2 objects, 25.0% of the row" in [c["title"] for c in cells]
    assert ["75.0", "25.0", ""] in shown([[6, 2, 0], [0, 0, 0], [1, 0, 3]], "pixels").rows()
    many = np.diag(np.full(40, 7))
    many[3, 5], many[8, 1] = 1, 3
    rows = shown(many.tolist()).rows()
    place = rows.index(["<8>", "<1>", "3", "30.0"])
    assert rows[place + 1] == ["<3>", "<5>", "1", "12.5"]
    assert not [row for row in rows if len(row) == 40]


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
    report = replace(small_report(), curves={}, metrics=None, images=None, speed=(), missing=())
    page = Page(render(report))
    assert page.text_of("h2") == ["Configuration", "To repeat it"]
    assert page.all("img") == []


def test_a_page_is_the_same_each_time(tmp_path):
    for name in "ab":
        write_page(tmp_path / name, small_report())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


# Runs, and what a newcomer gets wrong


def test_what_is_not_a_run_is_one_line(tmp_path, capsys):
    main = load_tool("report").main
    (tmp_path / "config.yaml").write_text("VERSION: 2\n")
    for path in (tmp_path, tmp_path / "none", tmp_path / "config.yaml"):
        assert main([str(path)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert str(path) in error
        assert error.count("\n") == 1
    assert not (tmp_path / "report.html").exists()
