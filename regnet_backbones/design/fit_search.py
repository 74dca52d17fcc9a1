"""All laws of widths that could be the nearest to a network, listed and compared.

Written with r = w_a / w_0 and m = log(w_m), the law (see `law.py`) gives block j the exponent
round(log(1 + r * j) / m), so r and m alone decide where stages begin: the stage with exponent k + 1
begins at block b exactly when r lies between E_k / b and E_k / (b - 1), E_k = exp((k + 1/2) m) - 1.
For given beginnings such an r exists for one interval of m. The widths depend on w_0 and m only and
are multiples of 8, so within the interval they change at finitely many m. Both are listed, leaving
out what cannot beat the best law so far: the result is the best law, not the best of a grid.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from statistics import median_low

from regnet_backbones.design.law import WIDTH_QUANTUM

# Errors, as sums over the blocks, that are nearer than this are equal.
_TIE = 1e-9

# A law on whose edge, closer than this in log(w_m) or log(w_a), other widths begin is left out:
# timm computes in float32 and may build the other widths.
_MIN_MARGIN = 1e-5

# w_m is looked for at so many points between its limits.
_POINTS = 64

# The least m. The paper's laws have w_m from 1.5 to 3; near 1 any widths have a law.
_FLATTEST = math.log(1.25)

# Mean errors above that of any stages, law or not, that are allowed at first and at last.
_FIRST_SLACK, _MOST_SLACK = 0.005, 8.0


def _growth(k: int, m: float) -> float:
    """Return E_k: a block j gets an exponent above k where r * j is above it."""
    return math.expm1((k + 0.5) * m)


@lru_cache(maxsize=2**16)
def _steepness(k: int, later: int, ratio: float) -> float:
    """Return the m at which E_later / E_k reaches a ratio; that quotient grows with m."""
    low, high = 0.0, max(0.0, math.log(ratio) / (later - k))
    if ratio <= (later + 0.5) / (k + 0.5):  # the limit for m = 0
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        if _growth(later, middle) < ratio * _growth(k, middle):
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True)
class Cell:
    """Laws that predict the same widths.

    Attributes:
        starts: first block of each stage but the first.
        widths: of the stages.
        depth: number of blocks.
        low: lower limit of m for these widths.
        high: upper limit.
    """

    starts: tuple[int, ...]
    widths: tuple[int, ...]
    depth: int
    low: float
    high: float

    def slopes(self, m: float) -> tuple[float, float]:
        """Return the limits of r at an m; above 0 where there is more than one stage."""
        growths = [_growth(k, m) for k in range(len(self.widths))]
        starts = list(zip(growths, self.starts, strict=False))
        low = max((growth / start for growth, start in starts), default=0.0)
        ends = [(growth, start - 1) for growth, start in starts] + [(growths[-1], self.depth - 1)]
        return low, min((growth / end for growth, end in ends if end), default=math.inf)

    def margin(self, m: float) -> float:
        """Return how far m, and the r in the middle, are from other widths, in logarithms."""
        low, high = self.slopes(m)
        if low >= high:
            return 0.0
        return min(m - self.low, self.high - m, math.log(high / low) / 2 if low else math.inf)

    def steepness(self) -> float:
        """Return the m that is farthest from other widths."""
        step = (self.high - self.low) / _POINTS
        return max((self.low + step * (i + 0.5) for i in range(_POINTS)), key=self.margin)

    def best_margin(self) -> float:
        """Return the margin of that m."""
        return self.margin(self.steepness())

    def numbers(self) -> tuple[int, float, float]:
        """Return w_0, w_a and w_m: with few digits, but half as far from other widths or more."""
        if not self.starts:
            return self.widths[0], 0.0, 2.0  # a single stage: any w_m does
        enough = self.best_margin() / 2
        w_m = next(
            w_m
            for w_m in _rounded(math.exp(self.steepness()))
            if w_m > 1 and self.margin(math.log(w_m)) >= enough
        )
        low, high = self.slopes(math.log(w_m))
        enough = math.log(high / low) / 4
        w_a = next(
            w_a
            for w_a in _rounded(self.widths[0] * math.sqrt(low * high))
            if low < w_a / self.widths[0] < high
            and abs(math.log(w_a / self.widths[0] / math.sqrt(low * high))) <= enough
        )
        return self.widths[0], w_a, w_m

    def block_widths(self) -> tuple[int, ...]:
        """Return the width of each block."""
        runs = pairwise((0, *self.starts, self.depth))
        blocks = zip(self.widths, runs, strict=True)
        return tuple(width for width, (start, end) in blocks for _ in range(start, end))


def _rounded(value: float) -> Iterator[float]:
    """Yield a number to more and more decimals."""
    yield from (round(value, digits) for digits in range(1, 15))
    yield value


class Search:
    """The best laws for observed widths; `cells` holds those of the least error."""

    def __init__(self, observed: Sequence[int]):
        self.logs = [math.log(width) for width in observed]
        self.observed = observed
        self.depth = len(observed)
        self.cells: list[Cell] = []
        self.least = math.inf
        # No wider first stage and no steeper law is worth a look.
        self.most_quanta = max(observed) // WIDTH_QUANTUM + 128
        self.steepest = math.log(max(observed) / 2 + 16)
        self.sums: dict[int, list[float]] = {}
        # Of the blocks from a to b: the middle width, and the error of the best single width.
        self.middle: dict[tuple[int, int], int] = {}
        self.single: dict[tuple[int, int], float] = {}
        for a in range(self.depth):
            for b in range(a + 1, self.depth + 1):
                self.middle[a, b] = middle = median_low(observed[a:b])
                log = math.log(middle)
                self.single[a, b] = sum(abs(log - other) for other in self.logs[a:b])
        # tail[n][a]: the least error of the blocks from a on, divided into n stages.
        self.tail = [[math.inf] * self.depth + [0.0]]

    def run(self, counts: Sequence[int]) -> None:
        """Look at all laws of each of these numbers of stages."""
        for _ in range(max(counts)):
            self.tail.append(
                [
                    min(self.single[a, b] + self.tail[-1][b] for b in range(a + 1, self.depth + 1))
                    for a in range(self.depth)
                ]
                + [math.inf]
            )
        # The smaller the error that is allowed the faster: begin with the least of any stages.
        best = min(self.tail[count][0] for count in counts)
        slack = _TIE
        while not self.cells and slack < _MOST_SLACK * self.depth:
            self.least = best + slack
            for count in counts:
                if self.tail[count][0] <= self.least:
                    self.divide(count, (), _FLATTEST, self.steepest, 0.0)
            slack = max(1.5 * slack, _FIRST_SLACK * self.depth)

    def divide(
        self, stages: int, starts: tuple[int, ...], low: float, high: float, error: float
    ) -> None:
        """Add a stage after those that begin at `starts`, for m from low to high.

        `stages` counts those to come, with the last of `starts`; `error` is the least of those
        before it.
        """
        begin = starts[-1] if starts else 0
        if stages == 1:
            low = max(low, *self.limits(starts, self.depth)[0], 0.0)  # no stage after the last
            if low < high:
                self.quantize(starts, (), low, high, 0.0)
            return
        for start in range(begin + 1, self.depth - stages + 2):
            at_least = error + self.single[begin, start]
            if at_least + self.tail[stages - 1][start] > self.least + _TIE:
                continue
            lows, highs = self.limits(starts, start)
            new_low, new_high = max(low, *lows, 0.0), min(high, *highs, math.inf)
            if new_low >= high:
                return  # later starts need a larger m still
            if new_low < new_high:
                self.divide(stages - 1, (*starts, start), new_low, new_high, at_least)

    def limits(self, starts: tuple[int, ...], start: int) -> tuple[list[float], list[float]]:
        """Return the limits of m for a next stage that begins at `start`.

        Each comes from a pair of stages: their intervals of r must overlap.
        """
        later = len(starts)
        pairs = list(enumerate(starts))
        lows = [_steepness(k, later, (start - 1) / other) for k, other in pairs]
        highs = [_steepness(k, later, start / (other - 1)) for k, other in pairs if other > 1]
        return lows, highs

    def quantize(
        self,
        starts: tuple[int, ...],
        widths: tuple[int, ...],
        low: float,
        high: float,
        error: float,
    ) -> None:
        """Give the stage after `widths` each width that it can have for m from low to high."""
        runs = list(pairwise((0, *starts, self.depth)))
        k = len(widths)
        if k == len(runs):
            self.keep(Cell(starts, widths, self.depth, low, high), error)
            return
        if k == 0:
            least, most = 1, self.most_quanta
            rest = sum(self.single[run] for run in runs[1:])
        else:
            least, most = self.reach(widths, k, low, high)
            later = range(k + 1, len(runs))
            rest = sum(self.least_error(runs[i], *self.reach(widths, i, low, high)) for i in later)
        middle = self.middle[runs[k]] // WIDTH_QUANTUM
        # On either side of the middle the error only grows.
        wider = range(max(middle + 1, least), most + 1)
        narrower = range(min(middle, most), least - 1, -1)
        for side in wider, narrower:
            for quanta in side:
                width = quanta * WIDTH_QUANTUM
                new_error = error + self.error_of(width, runs[k])
                if new_error + rest > self.least + _TIE:
                    break
                new_low, new_high = low, high
                if k:
                    unit = WIDTH_QUANTUM / widths[0]
                    new_low = max(low, math.log((quanta - 0.5) * unit) / k)
                    new_high = min(high, math.log((quanta + 0.5) * unit) / k)
                if new_low < new_high:
                    self.quantize(starts, (*widths, width), new_low, new_high, new_error)

    @staticmethod
    def reach(widths: tuple[int, ...], k: int, low: float, high: float) -> tuple[int, int]:
        """Return the least and greatest width of stage k for m from low to high, in quanta."""
        least = math.floor(widths[0] * math.exp(k * low) / WIDTH_QUANTUM + 0.5)
        most = math.floor(widths[0] * math.exp(k * high) / WIDTH_QUANTUM + 0.5)
        return max(least, widths[-1] // WIDTH_QUANTUM + 1), most

    def least_error(self, run: tuple[int, int], least: int, most: int) -> float:
        """Return the error of a run with the best width of those within reach, in quanta."""
        middle = self.middle[run] // WIDTH_QUANTUM
        if least > middle:
            return self.error_of(least * WIDTH_QUANTUM, run)
        if most <= middle:
            return self.error_of(most * WIDTH_QUANTUM, run) if most >= least else math.inf
        return self.single[run]

    def error_of(self, width: int, run: tuple[int, int]) -> float:
        """Return the summed error of one width for the blocks of a run."""
        if width not in self.sums:
            log = math.log(width)
            self.sums[width] = [0.0, *accumulate(abs(log - other) for other in self.logs)]
        return self.sums[width][run[1]] - self.sums[width][run[0]]

    def keep(self, cell: Cell, error: float) -> None:
        """Keep laws that are as good as the best, unless they lie on an edge."""
        if cell.best_margin() < _MIN_MARGIN:
            return
        if error < self.least - _TIE:
            self.least, self.cells = error, []
        self.cells.append(cell)
