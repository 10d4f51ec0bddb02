"""Where in the schedule a step stands: what changes over a run changes by this."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def places(progress: Sequence[float], start: float = 0.0, end: float = 1.0) -> list[float]:
    """The place of each step of a sampler in the sparse part of the schedule, 0 its start and 1 its end.

    A sampler may have a part of the schedule only, as where two samplers share one: its steps' places have the mean that the
    part has, however its steps are spread. So what falls in a line over the schedule has its mean over all samplers, too.

    Args:
        progress: share of the schedule that has passed when a step begins, rising in [0, 1], and when the last one ends:
            one more number than steps.
        start, end: of the sparse part.

    Returns:
        A place in [0, 1] for each step; for those outside of the sparse part the nearest.
    """
    steps = list(pairwise(progress))
    middles = [(max(begin, start) + min(stop, end)) / 2 for begin, stop in steps]
    inside = [i for i, (begin, stop) in enumerate(steps) if begin < end and stop > start]
    shift = 0.0
    if inside:
        part = (max(progress[0], start) + min(progress[-1], end)) / 2
        shift = part - sum(middles[i] for i in inside) / len(inside)
    return [min(1.0, max(0.0, (middle + shift - start) / (end - start))) for middle in middles]
