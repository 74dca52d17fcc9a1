"""Whether a network is measurably faster than another: ratios of paired times, with an interval."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from regnet_backbones.errors import UserError
from regnet_backbones.measure.meter import LatencyMeter
from regnet_backbones.measure.networks import Network


@dataclass(frozen=True)
class RatioBand:
    """The time of a network over that of a reference: the median of paired runs, and its interval.

    Attributes:
        low: lower end of the interval.
        median: of the ratios; below 1 is faster than the reference.
        high: upper end of the interval.
    """

    low: float
    median: float
    high: float

    @property
    def faster(self) -> bool:
        """Whether the network is measurably faster: all of the interval is below 1."""
        return self.high < 1


def ratio_band(
    times: Sequence[float],
    reference: Sequence[float],
    *,
    confidence: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> RatioBand:
    """Return the median ratio of paired times, with its bootstrap interval (percentiles).

    Args:
        times: of a network.
        reference: of another one, in the same rounds.
        confidence: share of the medians of resampled ratios that lie in the interval.
        resamples: how often as many ratios are drawn, with replacement.
        seed: of these draws.

    Raises:
        ValueError: there is no pair for each time, no time at all, or an option is out of range.
    """
    if not times or len(times) != len(reference):
        raise UserError(
            f"ratios take as many times of both networks, got {len(times)} and {len(reference)}"
        )
    if not 0 < confidence < 1 or resamples < 1:
        raise UserError(
            "ratio_band takes confidence between 0 and 1 and resamples >= 1, got "
            f"{confidence} and {resamples}"
        )
    ratios = [mine / other for mine, other in zip(times, reference, strict=True)]
    rng = random.Random(seed)
    medians = sorted(median(rng.choices(ratios, k=len(ratios))) for _ in range(resamples))
    outside = int((1 - confidence) / 2 * resamples)  # at either end
    return RatioBand(medians[outside], median(ratios), medians[-1 - outside])


def confirm(
    meter: LatencyMeter,
    networks: Sequence[Network],
    reference: Network,
    *,
    runs: int = 30,
    confidence: float = 0.95,
) -> tuple[RatioBand, ...]:
    """Measure a few networks beside a reference, to say which of them are measurably faster.

    The more networks, the wider each interval: `confidence` is that of all of them together, for
    one of many is soon called faster by chance.

    Args:
        meter: with the conditions.
        networks: the best of a search; their weights are in memory at the same time.
        reference: what they shall be faster than.
        runs: rounds in which each is called once.
        confidence: that no interval misses its true ratio.

    Returns:
        The time of each network over the reference's.

    Raises:
        ValueError: there is no network, or one that cannot be built.
        MemoryError: they need more memory than there is, on a GPU too.
    """
    if not networks:
        raise UserError("there is no network to compare with the reference; give at least one")
    numbered = {str(number): network for number, network in enumerate(networks)}
    times = meter.compare({"reference": reference, **numbered}, runs=runs)
    each = 1 - (1 - confidence) / len(networks)
    return tuple(ratio_band(times[name], times["reference"], confidence=each) for name in numbered)
