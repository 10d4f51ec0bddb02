"""What a sampling run did, by step and layer, and in all: for the log, the page and the report."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..svg_core import AttentionStats
from .reasons import Reason

# Means over the heads of one sparse call.
FIGURES = ("density", "computed", "error", "temporal", "kept_fraction", "alike", "dense_heads", "finite", "broken")
DIGITS = 4  # of what goes to the page: a run of 50 steps and 60 layers stays under 200 kB


@dataclass
class Step:
    """What happened in one step of the sampler.

    Attributes:
        sparse: (layer, its figures) of every sparse call: a tensor until it is read, then floats.
        dense: calls that stayed dense, by label.
        reasons: label -> explanation of these.
    """

    sparse: list[tuple[int, Tensor | list[float]]] = field(default_factory=list)
    dense: Counter[str] = field(default_factory=Counter)
    reasons: dict[str, str] = field(default_factory=dict)


class Record:
    """Counts calls and times them. Figures stay on their device until a step is read, so that no call waits for it."""

    def __init__(self):
        self._lock = threading.Lock()
        self._steps: defaultdict[int, Step] = defaultdict(Step)
        self._layers = 0
        self._seconds: Counter[str] = Counter()
        self._calls: Counter[str] = Counter()
        self._events: list[tuple] = []
        self._untimed: set[str] = set()

    def count_dense(self, step: int, reason: Reason, layer: int | None = None) -> None:
        """Counts a call that stays dense."""
        with self._lock:
            self._saw(layer)
            self._steps[step].dense[reason.label] += 1
            self._steps[step].reasons[reason.label] = reason.text

    def count_sparse(self, step: int, stats: Sequence[AttentionStats], layer: int) -> None:
        """Counts a sparse call; `stats` of the elements of the batch or of all in one."""
        figures = torch.cat([_figures(part) for part in stats], 1).nanmean(1)
        with self._lock:
            self._saw(layer)
            self._steps[step].sparse.append((layer, figures))

    @contextmanager
    def timed(self, kind: str, device: torch.device) -> Iterator[None]:
        """Times the work within, on its own device, as a call of this kind: "sparse", "dense" or "warm_up".

        Other devices than CUDA's and the CPU are left out: there a clock would time the launch alone, or have to wait.
        """
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            stream = torch.cuda.current_stream(device)
            begin.record(stream)
            yield
            end.record(stream)
            with self._lock:
                self._events.append((kind, begin, end))
            return
        if device.type != "cpu":
            yield
            with self._lock:
                self._untimed.add(device.type)
            return
        begin = time.perf_counter()
        yield
        with self._lock:
            self._calls[kind] += 1
            self._seconds[kind] += time.perf_counter() - begin

    def step(self, number: int) -> dict:
        """One step, JSON-ready: lists by layer, with None where the layer stayed dense.

        Waits for the device if the step's work is not done.
        """
        step = self._read(number)
        calls = [figures for _, figures in step.sparse]
        by_layer = self._by_layer(step.sparse)
        return {
            "step": number,
            **{name: [_mean(layer, name) for layer in by_layer] for name in ("density", "error")},
            **{name: _mean(calls, name) for name in ("temporal", "kept_fraction", "alike", "dense_heads")},
            "reasons": dict(step.reasons),
        }

    def alike(self, number: int) -> list[float | None]:
        """How alike the keys with and without a prompt were in one step, by layer; None where none were compared."""
        return [_mean(layer, "alike") for layer in self._by_layer(self._read(number).sparse)]

    def report(self) -> dict:
        """All steps, JSON-ready. Means are over the sparse calls, None without any."""
        steps = {number: self._read(number) for number in sorted(self._steps)}
        sparse = [call for step in steps.values() for call in step.sparse]
        calls, by_layer = [figures for _, figures in sparse], self._by_layer(sparse)
        dense = sum((step.dense for step in steps.values()), Counter())
        explanations = {label: text for step in steps.values() for label, text in step.reasons.items()}
        computed = sum(figures[FIGURES.index("computed")] for figures in calls)
        total = len(calls) + dense.total()
        return {
            "sparse_calls": len(calls),
            "calls": total,
            **{name: _mean(calls, name) for name in FIGURES if name not in ("finite", "broken")},
            "work": _rounded((computed + dense.total()) / total) if total else None,
            "not_finite_calls": sum(figures[FIGURES.index("finite")] < 1 for figures in calls),
            "broken_calls": sum(figures[FIGURES.index("broken")] > 0 for figures in calls),
            "dense_reasons": dict(dense),
            "explanations": explanations,
            "attention": {
                kind: {"calls": self._calls[kind], "seconds": round(seconds, 4)} for kind, seconds in self._seconds.items()
            },
            "untimed": sorted(self._untimed),
            "layers": {
                name: [_mean(layer, name) for layer in by_layer] for name in ("density", "error", "temporal", "kept_fraction")
            },
            "steps": [self.step(number) for number in steps],
        }

    def _by_layer(self, calls: list[tuple[int, list[float]]]) -> list[list[list[float]]]:
        return [[figures for layer, figures in calls if layer == i] for i in range(self._layers)]

    def _saw(self, layer: int | None) -> None:
        self._layers = max(self._layers, 0 if layer is None else layer + 1)

    def _read(self, number: int) -> Step:
        """A step with its figures as floats: one wait for each of its devices, while other threads go on."""
        with self._lock:
            step = self._steps[number]
            sparse, events = list(step.sparse), self._events
            self._events = []
        waiting = [i for i, (_, figures) in enumerate(sparse) if isinstance(figures, Tensor)]
        for device in {sparse[i][1].device for i in waiting}:
            there = [i for i in waiting if sparse[i][1].device == device]
            for i, figures in zip(there, torch.stack([sparse[i][1] for i in there]).tolist(), strict=True):
                sparse[i] = (sparse[i][0], figures)
        for _, _, end in events:
            end.synchronize()
        with self._lock:
            step.sparse[: len(sparse)] = sparse
            for kind, begin, end in events:
                self._calls[kind] += 1
                self._seconds[kind] += begin.elapsed_time(end) / 1000
            return Step(sparse, step.dense.copy(), step.reasons.copy())


def _figures(stats: AttentionStats) -> Tensor:
    """FIGURES of each head, [9, B * H]; NaN for what the method does not have."""
    missing = torch.full_like(stats.density, math.nan)
    broken = None if stats.exact_finite is None else stats.exact_finite & ~stats.finite
    figures = (
        stats.density,
        stats.computed,
        stats.error,
        stats.pattern,
        stats.kept_fraction,
        stats.alike,
        stats.dense,
        stats.finite,
        broken,
    )
    return torch.stack([missing if x is None else x.float() for x in figures]).flatten(1)


def _mean(calls: list[list[float]], name: str) -> float | None:
    """Of one figure, over the calls that have it."""
    values = [figures[FIGURES.index(name)] for figures in calls]
    values = [value for value in values if math.isfinite(value)]
    return _rounded(sum(values) / len(values)) if values else None


def _rounded(value: float) -> float:
    return round(value, DIGITS)
