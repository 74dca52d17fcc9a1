"""Check and measure everything that runs on a GPU, in at most eight minutes.

    python -m benchmarks.gpu --output benchmarks/results/gpu
    python -m benchmarks.gpu --device cpu --quick --output gpu_quick    # a rehearsal

Maps of the extractor are compared with those of the CPU in every form; extractor and detector are
measured next to their peers in bfloat16 at 800x1344, with peak memory and what the GPU can do at
best; the demo's Mask R-CNN is trained; and as far as time is left, all are compiled with
max-autotune and CUDA graphs. It writes PATH.json after every part. The exit status is 1 if a check
or a row failed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from threading import Timer

import torch

from benchmarks.cases import DTYPES, Case
from benchmarks.entries import REFERENCES, entries_of
from benchmarks.extractors import ours
from benchmarks.machine import conditions
from benchmarks.report import as_json, result_table, roofline_table
from benchmarks.results import Result, failed_rows
from benchmarks.roofline import measure_rates
from benchmarks.runner import failure_of, measure
from benchmarks.settings import Setting
from benchmarks.steps import largest_error, last_maps, make_step
from regnet_backbones import config_path, shapes
from regnet_backbones.runs.results import write_json
from regnet_backbones.runs.trained import METRICS_NAME, read_metrics

MINUTES = 8
TRAINING_SECONDS = 180
AUTOTUNE_SECONDS = 90  # that must be left for the rows of a case that are autotuned
STOPPED = 143  # exit status after SIGTERM

ROOT = Path(__file__).resolve().parents[1]
DEMO = config_path("detectron2/quick/mask_rcnn_regnet_small_fpn.yaml")

# Forms of our extractor, and how far maps may be from the CPU's, relative to the largest value.
CHECKS = (
    (Setting(), 1e-4),
    (Setting(channels_last=True), 1e-4),
    (Setting(optimized=True), 1e-4),
    (Setting(optimized=True, compiled=True), 1e-4),
    (Setting(precision="bf16"), 0.1),
    (Setting(optimized=True, precision="bf16"), 0.1),
    (Setting(optimized=True, precision="bf16", compiled=True, any_size=True), 0.1),
)

# Rows by part; the others take too long to compile.
ROWS = {
    "features": (
        *("ours", "ours, bf16", "ours, optimized, bf16", "ours, optimized, bf16, compiled"),
        *("timm, bf16", "timm, bf16, channels_last", "timm, bf16, channels_last, compiled"),
        *("torchvision, bf16", "torchvision, bf16, channels_last"),
    ),
    "detector": (
        *("ours, bf16", "ours, optimized, bf16"),
        *("detectron2, bf16", "detectron2, bf16, channels_last"),
    ),
}
EAGER = ("ours, optimized, bf16", "timm, bf16, channels_last", "torchvision, bf16, channels_last")
AUTOTUNED = tuple(f"{row}, compiled, max-autotune" for row in EAGER)


@dataclass(frozen=True)
class Plan:
    """What is measured, and on what."""

    device: str
    quick: bool = False  # tiny images and networks, nothing compiled, two steps of training

    def case(self, part: str, batch: int) -> Case:
        """Return a case of inference."""
        variant, size = ("regnetx_002", (64, 96)) if self.quick else ("regnety_032", (800, 1344))
        return Case(part, False, variant, size, batch, self.device)


def check_maps(plan: Plan) -> list[dict[str, object]]:
    """Compare the maps of our extractor in every form with those of the CPU."""
    case = Case("features", False, plan.case("features", 1).variant, (96, 128), 2, plan.device)
    with torch.inference_mode():
        expected = list(ours(case).eval()(case.images().cpu()))
    found = []
    for setting, tolerance in (c for c in CHECKS if not (plan.quick and c[0].compiled)):
        row = {"name": setting.row_name("ours"), "tolerance": tolerance, "error": None}
        try:
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                model = setting.apply(ours(case).to(plan.device).eval(), case)
                maps = [features.cpu() for features in last_maps(make_step(model, case).outputs())]
            row["error"] = largest_error(maps, expected)
            row["right"] = row["error"] <= tolerance
        except Exception as error:  # of any kind: the other checks are made all the same
            row |= {"right": False, "note": failure_of(error).note}
        print(row, flush=True)
        found.append(row)
    return found


def measure_rows(plan: Plan, part: str, batch: int, names: Sequence[str]) -> Result:
    """Measure rows of a case, and print them."""
    entries = entries_of(part, training=False, device=plan.device)
    entries = [e for e in entries if e.name in names and not (plan.quick and e.setting.compiled)]
    reference, runs = f"{REFERENCES[part]}, bf16", 2 if plan.quick else 20
    result = measure(plan.case(part, batch), entries, reference=reference, runs=runs)
    print(f"\n{result_table(result)}", flush=True)
    return result


def train_demo(plan: Plan, seconds: float) -> dict[str, object]:
    """Train the demo's Mask R-CNN, stop it after some time, and return what it reached."""
    with tempfile.TemporaryDirectory() as folder:
        small = {"num_train": 8, "num_val": 2, "image_size": 64} if plan.quick else {}
        shapes.write(Path(folder) / "shapes", shapes.ShapesSpec(**small))
        run = Path(folder) / "run"
        command = [sys.executable, str(ROOT / "tools" / "train_net.py"), "--config-file", str(DEMO)]
        command += ["MODEL.DEVICE", plan.device, "OUTPUT_DIR", str(run)]
        command += ["SOLVER.MAX_ITER", "2", "TEST.PICTURES", "0"] if plan.quick else []
        start = time.monotonic()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        environment = {**os.environ, "DETECTRON2_DATASETS": folder}
        process = subprocess.Popen(command, env=environment, **pipes)
        stop = Timer(seconds, process.terminate)
        stop.start()
        output, _ = process.communicate()
        stop.cancel()
        rows = read_metrics(run / METRICS_NAME)
        return {
            "status": process.returncode,
            "seconds": time.monotonic() - start,
            "iterations": len(rows),
            "metrics": {name: value for row in rows for name, value in row.items()},
            "peak_mib": max(map(int, re.findall(r"max_mem: (\d+)M", output)), default=None),
            "output": "" if process.returncode in (0, STOPPED) else output[-2000:],
        }


def main(argv: Sequence[str] | None = None) -> int:
    """Check, measure and train; return 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a tiny run, to try it out")
    parser.add_argument("--no-training", action="store_true", help="leave out the demo training")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "results" / "gpu")
    args = parser.parse_args(argv)
    return run(Plan(args.device, args.quick), args.output, training=not args.no_training)


def run(plan: Plan, output: Path, *, training: bool) -> int:
    """Do all parts, write what is known after each, and return the exit status."""
    start, results = time.monotonic(), []
    about = {**conditions(plan.device), "not_measured": []}

    def save() -> None:
        about["seconds"] = round(time.monotonic() - start, 1)
        write_json(output.with_suffix(".json"), as_json(results, about=about, rates=rates))

    def left() -> float:
        return 60 * MINUTES - (time.monotonic() - start)

    about["checks"] = check_maps(plan)
    rates = {name: measure_rates(name, device=plan.device) for name in DTYPES}
    batches = (1,) if plan.quick else (1, 8)
    for (part, names), batch in product(ROWS.items(), batches):
        results.append(measure_rows(plan, part, batch, names))
        print(roofline_table(results[-1], rates) or "")
        save()
    if training:
        about["training"] = train_demo(plan, min(TRAINING_SECONDS, max(1, left() - 10)))
        print(about["training"], flush=True)
        save()
    for batch in batches:
        if plan.quick or plan.device == "cpu" or left() < AUTOTUNE_SECONDS:
            about["not_measured"].append(f"max-autotune, batch {batch}")
            continue
        results.append(measure_rows(plan, "features", batch, ("timm, bf16", *AUTOTUNED)))
    save()
    bad = [check["name"] for check in about["checks"] if not check["right"]]
    bad += [row.name for row in failed_rows(results)]
    bad += ["demo"] if training and about["training"]["status"] not in (0, STOPPED) else []
    print(f"{output.with_suffix('.json')}; failed: {', '.join(bad) or 'nothing'}")
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
