"""Measuring the rows of a case in turns; a row that fails does not stop the others."""

import gc
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from benchmarks import extractors
from benchmarks.cases import Case
from benchmarks.entries import Entry
from benchmarks.results import Result, Row, Status
from benchmarks.steps import Step, largest_error, last_maps, make_step, saved_bytes
from regnet_backbones.measure.memory import is_out_of_memory, peak_bytes
from regnet_backbones.measure.timing import interleaved_times

# An absolute path, up to its last part: of this machine, and of no use to others.
PATH = re.compile(r"(?<![\w:/.])(?:/[^\s/'\",:;()]+)*/(?=[^\s/])")

ERROR_LENGTH = 200

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why a row has no times."""

    status: Status
    note: str


class Attempt:
    """A call that is done no more once it has failed."""

    def __init__(self, call: Callable[[], object]):
        self.call = call
        self.failure: Failure | None = None

    def __call__(self) -> object:
        """Call, or note the failure."""
        if self.failure is not None:
            return None
        try:
            return self.call()
        except Exception as error:
            self.failure = failure_of(error)
            logger.debug("a row failed", exc_info=error)
            return None


def measure(
    case: Case,
    entries: Sequence[Entry],
    *,
    reference: str,
    runs: int,
    warmup: int = 2,
    progress: Callable[[str], object] = lambda text: None,
) -> Result:
    """Measure all rows of a case.

    Args:
        case: what to measure.
        entries: the rows.
        reference: name of the row to compare with; it need not be among them.
        runs: rounds in which each row is called once.
        warmup: rounds before those.
        progress: is told what comes next, once a row and once for the times.

    Returns:
        A row for each entry, measured or not.
    """
    torch.compiler.reset()  # what other cases compiled counts against the limit of recompilations
    maps = None
    if any(entry.our_weights for entry in entries):
        reference_maps = Attempt(lambda: _our_maps(case))
        maps = reference_maps()
        if maps is None:
            logger.warning("no errors of maps: %s", reference_maps.failure)
    rows: dict[str, Row] = {}
    steps: dict[str, Attempt] = {}
    for entry in entries:
        progress(entry.name)
        row = Row(entry.name, entry.family, entry.setting.precision, "measured")
        reason = entry.reason_to_leave_out(case)
        if reason is not None:
            rows[entry.name] = replace(row, status="left out", note=reason)
            continue
        preparation = Attempt(lambda entry=entry: _prepare(entry, case, maps))
        prepared = preparation()
        if prepared is None:
            rows[entry.name] = replace(row, **vars(preparation.failure))
            _free(case)
            continue
        step, found = prepared
        rows[entry.name], steps[entry.name] = replace(row, **found), Attempt(step)
    progress("times")
    gc.collect()
    times = interleaved_times(steps, runs=runs, warmup=warmup, device=case.device)
    return Result(
        case, reference, tuple(_timed(rows[e.name], steps.get(e.name), times) for e in entries)
    )


def failure_of(error: Exception) -> Failure:
    """Say in a line, without paths of this machine, why a row has no times."""
    if is_out_of_memory(error):
        return Failure("out of memory", "")
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = PATH.sub("", " ".join(lines))
    if len(text) > ERROR_LENGTH:
        text = text[:ERROR_LENGTH] + " ..."
    return Failure("failed", f"{type(error).__name__}: {text}")


def _prepare(
    entry: Entry, case: Case, maps: list[torch.Tensor] | None
) -> tuple[Step, dict[str, object]]:
    """Build the model of a row, call it once, and measure all but the time."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = entry.build(case).to(case.device).train(case.training)
    step = make_step(entry.setting.apply(model, case), case)
    step()  # compiles, and makes buffers that stay
    by_torch = next(step.model.parameters(), None) is not None
    compared = entry.our_weights and maps is not None
    return step, {
        "peak_bytes": peak_bytes(step, device=case.device) if by_torch else None,
        "saved_bytes": saved_bytes(step.forward, besides=step.state()) if case.training else None,
        "error": largest_error(last_maps(step.outputs()), maps) if compared else None,
        "note": getattr(step.model, "note", ""),
    }


def _our_maps(case: Case) -> list[torch.Tensor]:
    """Return the maps of our extractor as it comes, which others are compared with."""
    network = extractors.ours(case).to(case.device).eval()
    with torch.inference_mode():
        return list(network(case.images()))


def _timed(row: Row, step: Attempt | None, times: dict[str, tuple[float, ...]]) -> Row:
    """Add its times to a row; or why there are none, if it failed in between."""
    if step is None:
        return row
    if step.failure is not None:
        return replace(row, **vars(step.failure))
    return replace(row, seconds=times[row.name])


def _free(case: Case) -> None:
    """Give back what a row held that failed."""
    gc.collect()
    if case.device == "cuda":
        torch.cuda.empty_cache()
