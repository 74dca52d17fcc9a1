"""The stages that the law of RegNet gives, fast: for the many draws that give not four.

`law.py` takes a logarithm for each block. Here the line u_j is followed from stage to stage: it
leaves the power w_0 * w_m ** s, and with it the stage, where it crosses w_0 * w_m ** (s + 1/2).
Where that falls on a block, as nearly as floats tell, the law decides: the result is the law's.
"""

import math

from regnet_backbones.design.law import NUM_STAGES, WIDTH_QUANTUM, block_widths, width_runs

# Blocks between a crossing and a block that make rounding errors matter: far above those errors.
_TOO_CLOSE = 1e-6


def stage_runs(w_0: int, w_a: float, w_m: float, depth: int) -> list[tuple[int, int]] | None:
    """Return width and depth of the stages before they are fitted to groups.

    Returns:
        Four rows; None where the numbers, each in the range of `RegNetDesign`, give another number
        of stages.
    """
    log, log_ratio, half_step = math.log, math.log(w_m), math.sqrt(w_m)
    last = round(log((w_0 + w_a * (depth - 1)) / w_0) / log_ratio)
    if last < NUM_STAGES - 1 or last - _first_certain(w_0, w_a, w_m, log_ratio) >= NUM_STAGES:
        return None
    runs: list[tuple[int, int]] = []
    block, exponent = 0, 0
    while True:
        power = w_0 * w_m**exponent
        crossing = (power * half_step - w_0) / w_a
        if abs(crossing - round(crossing)) < _TOO_CLOSE:
            runs = width_runs(block_widths(w_0, w_a, w_m, depth).quantized)
            return runs if len(runs) == NUM_STAGES else None
        end = min(math.ceil(crossing), depth)
        width = round(power / WIDTH_QUANTUM) * WIDTH_QUANTUM
        if runs and runs[-1][0] == width:  # two powers, one multiple of 8
            runs[-1] = (width, runs[-1][1] + end - block)
        elif len(runs) == NUM_STAGES:
            return None
        else:
            runs.append((width, end - block))
        if end == depth:
            return runs if len(runs) == NUM_STAGES else None
        block = end
        exponent = round(log((w_0 + w_a * block) / w_0) / log_ratio)


def _first_certain(w_0: int, w_a: float, w_m: float, log_ratio: float) -> int:
    """Return an exponent from which on each, up to that of the last block, gives a stage.

    Below it the line may climb so fast that a power gets no block, or two powers may round to one
    multiple of 8. Neither can be where power s holds for a stretch of the line,
    w_0 * w_m ** (s - 1/2) * (w_m - 1), that is higher than the step between blocks, and than 8.
    """
    step = max(w_a, WIDTH_QUANTUM) / (w_0 * (w_m - 1))
    return max(0, math.floor(math.log(step) / log_ratio + 0.5 + _TOO_CLOSE) + 1)
