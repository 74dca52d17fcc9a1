"""`tools/benchmark.py`: what to measure, from the command line."""

import argparse
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import chain, product
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.cases import DTYPES, MODES, PRECISIONS, Case, Precision
from benchmarks.chart import write_chart
from benchmarks.entries import REFERENCES, Entry, check_names, entries_of, select
from benchmarks.machine import conditions
from benchmarks.report import as_json, result_table, roofline_table, scaling_table
from benchmarks.results import Result, failed_rows
from benchmarks.roofline import Rates, measure_rates
from benchmarks.runner import measure
from benchmarks.scaling import points
from regnet_backbones import zoo
from regnet_backbones.cli.run import command_parser, parse_size, run_command
from regnet_backbones.errors import UserError
from regnet_backbones.files import check_output_folder
from regnet_backbones.runs.results import write_json


def benchmark_command(argv: Sequence[str] | None, *, description: str) -> int:
    """Measure as a command line says, and print the results.

    Args:
        argv: the command line, None for that of this process.
        description: of the tool.

    Returns:
        The exit status, as `run_command` returns it, and 1 if a row failed.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    args = benchmark_parser(description).parse_args(argv)

    def benchmark() -> int:
        rows = _rows(args)
        _check(args, rows)
        options = {"precisions": args.dtype, "patterns": args.entries}
        chosen = {case: select(entries, **options) for case, entries in rows.items()}
        chosen = {case: entries for case, entries in chosen.items() if entries}
        with cpu_threads(args.threads):
            line = plain_command("tools/benchmark.py", argv, [args.output])
            return _benchmark(args, chosen, line)

    return run_command(benchmark)


def benchmark_parser(description: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = command_parser("python tools/benchmark.py", description)
    add = parser.add_argument
    add("--mode", nargs="+", choices=MODES, default=["forward"], help="default: forward")
    add("--no-training", action="store_true", help="measure only inference")
    add("--variants", nargs="+", default=["regnety_032"], metavar="NAME", help="%(default)s")
    add("--sizes", nargs="+", default=["512"], metavar="SIZE", help="512, or 800x1344 (H x W)")
    add("--batches", nargs="+", type=int, default=[1], metavar="N", help="images (default: 1)")
    add("--dtype", nargs="+", choices=PRECISIONS, default=["fp32"], help="default: fp32")
    add("--device", choices=("cpu", "cuda"), default="cpu", help="default: %(default)s")
    add("--threads", type=int, metavar="N", help="CPU threads (default: torch's)")
    add("--runs", type=int, default=20, metavar="N", help="rounds (default: %(default)s)")
    add("--warmup", type=int, default=2, metavar="N", help="warm-up rounds (default: %(default)s)")
    add("--entries", nargs="+", metavar="PATTERN", help="rows to measure: ours* timm '*compiled'")
    add("--reference", metavar="ROW", help="row that ratios refer to (default: a plain peer)")
    add("--roofline", "--floors", action="store_true", help="add the limits of the device")
    add("--scaling", "--growth", action="store_true", help="add time against computation")
    add("--output", metavar="PATH", help="write PATH.json and PATH.png")
    return parser


def _rows(args: argparse.Namespace) -> dict[Case, tuple[Entry, ...]]:
    """Return the cases that the command line asks for, with all their rows."""
    sizes = [parse_size(text) for text in args.sizes]
    variants = [zoo.get(name).name for name in args.variants]
    parts = dict.fromkeys(part for mode in args.mode for part in MODES[mode])
    return {
        Case(part, training, variant, size, batch, args.device): entries_of(
            part, training=training, device=args.device
        )
        for (part, training), variant, size, batch in product(parts, variants, sizes, args.batches)
        if not (training and args.no_training)
    }


def _check(args: argparse.Namespace, rows: dict[Case, tuple[Entry, ...]]) -> None:
    """Raise ValueError for what cannot be measured, OSError for results that cannot be written."""
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda needs a GPU, and torch finds none; use --device cpu")
    for name, least in (("batches", 1), ("runs", 1), ("threads", 1), ("warmup", 0)):
        given = getattr(args, name)
        numbers = given if isinstance(given, list) else [given]
        if any(number is not None and number < least for number in numbers):
            raise UserError(f"--{name} must be at least {least}, got {given}")
    if args.output:
        check_output_folder(Path(args.output).parent, name="the folder of --output")
    entries = list(chain.from_iterable(rows.values()))
    for option, names in (("--entries", args.entries), ("--reference", [args.reference])):
        check_names(filter(None, names or ()), entries, option=option, precisions=args.dtype)


def _benchmark(args: argparse.Namespace, chosen: dict[Case, tuple[Entry, ...]], line: str) -> int:
    """Measure all cases, print and write the results, and return the exit status."""
    rates = _rates(args) if args.roofline else None
    about = {
        "command": line,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        **conditions(args.device),
    }
    results: list[Result] = []
    for result in _measured(args, chosen):
        results.append(result)
        print(f"\n{result_table(result)}", flush=True)
        roofline = rates and roofline_table(result, rates)
        if roofline:
            print(roofline)
        if args.output:  # after every case: a long run may be interrupted
            write_json(Path(f"{args.output}.json"), as_json(results, about=about, rates=rates))
    grown = points(results) if args.scaling else None
    if grown is not None:
        print(f"\n{scaling_table(grown)}")
    if args.output:
        content = as_json(results, about=about, rates=rates, points=grown)
        write_json(Path(f"{args.output}.json"), content)
        _try_chart(Path(f"{args.output}.png"), results)
    failed = failed_rows(results)
    if failed:
        print(f"{len(failed)} rows failed, see above", file=sys.stderr)
    return 1 if failed else 0


def _measured(args: argparse.Namespace, chosen: dict[Case, tuple[Entry, ...]]) -> Iterator[Result]:
    """Measure one case after the other, and show how far it is."""
    steps = sum(len(entries) + 1 for entries in chosen.values())
    with tqdm(total=steps, unit="row", file=sys.stderr, disable=None) as bar:
        for case, entries in chosen.items():

            def show(text: str, case: Case = case) -> None:
                bar.set_description(f"{case.title}: {text}")
                bar.update()

            result = measure(
                case,
                entries,
                reference=args.reference or REFERENCES[case.part],
                runs=args.runs,
                warmup=args.warmup,
                progress=show,
            )
            bar.clear()
            yield result


def _rates(args: argparse.Namespace) -> dict[Precision, Rates]:
    """Measure what the device can do, and print it."""
    precisions = [precision for precision in args.dtype if precision in DTYPES]
    rates = {precision: measure_rates(precision, device=args.device) for precision in precisions}
    for precision, rate in rates.items():
        print(
            f"{precision}: {rate.multiply_adds / 1e9:.0f} G multiply-adds/s in {rate.by}, "
            f"{rate.bandwidth / 1e9:.1f} GB/s in a copy"
        )
    return rates


def _try_chart(path: Path, results: Sequence[Result]) -> None:
    """Write the chart, or say why there is none."""
    try:
        write_chart(path, results)
    except (ModuleNotFoundError, ValueError) as error:
        print(f"no chart: {error}", file=sys.stderr)


def plain_command(command: str, argv: Sequence[str], paths: Iterable[str | None]) -> str:
    """Return a command line as a shell repeats it; of `paths` in it only the last part is kept."""
    words = ["python", command] if command.endswith(".py") else command.split()
    given = [path for path in paths if path]
    for word in argv:
        path = max((path for path in given if word.endswith(path)), key=len, default="")
        words.append(word.removesuffix(path) + Path(path).name if path else word)
    return shlex.join(words)


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch work with so many threads of the CPU for a while; None leaves them as they are."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
