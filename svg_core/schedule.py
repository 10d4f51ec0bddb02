"""Where in the schedule a step stands: what changes over a run changes by this."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

TIE = 1e-4  # as near to a border a step begins on it


def places(progress: Sequence[float], start: float = 0.0, end: float = 1.0) -> list[float]:
    """The place of each step of a sampler in the sparse part of the schedule, 0 its start and 1 its end.

    A sampler may have a part of the schedule only, as where two samplers share one: its steps' places have the mean that the
    part has, however its steps are spread. So what falls in a line over the schedule has its mean over all samplers, too.

    Args:
        progress: share of the schedule that has passed when a step begins, rising in [0, 1], and when the last one ends:
            one more number than steps.
        start, end: of the sparse part.

    Returns:
        A place in [0, 1] for each step; for those outside of the sparse part the nearest. A step belongs to the part that it
        begins in.
    """
    steps = list(pairwise(progress))
    inside = [i for i, (begin, _) in enumerate(steps) if start - TIE <= begin <= end + TIE]
    if not inside:
        return [0.5] * len(steps)
    # Where the border falls into a step of this sampler, that step is dense before it, and sparse at the other end.
    start = steps[inside[0]][0] if inside[0] > 0 else start
    end = steps[inside[-1]][1] if inside[-1] + 1 < len(steps) else end
    middles = [(begin + min(stop, end)) / 2 for begin, stop in steps]
    part = (max(progress[0], start) + min(progress[-1], end)) / 2
    shift = part - sum(middles[i] for i in inside) / len(inside)
    return [min(1.0, max(0.0, (middle + shift - start) / max(end - start, TIE))) for middle in middles]
