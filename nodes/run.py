"""One sampling run: its state, what it counted, what it tells."""

from __future__ import annotations

import threading
from collections import Counter

import torch
from torch import Tensor

from ..kernels import failures
from ..svg_core import AttentionStats, SparseState
from .log import PREFIX, log
from .settings import Settings

# A step that falls on the border runs sparse: the sampler's sigmas are float32, the border is not.
TIE = 1e-5


class Run:
    """From the start of a sampler's run to its end, however it ends. Threads of one run share it.

    Attributes:
        settings: the node's.
        state: the planners', dropped at the end.
        start_sigma, end_sigma: sparse while end_sigma <= sigma <= start_sigma.
        goes_sparse: a later step of this sampler's schedule is within these.
        failure: the reason to stay dense after an error, or None.
    """

    def __init__(self, settings: Settings, start_sigma: float, end_sigma: float):
        self.settings = settings
        self.state = SparseState()
        self.start_sigma, self.end_sigma = start_sigma, end_sigma
        self.failure: str | None = None
        self.goes_sparse = False
        self._lock = threading.Lock()
        self._schedule_read = False
        self._said: set[str] = set()
        self._dense: Counter[str] = Counter()
        self._density: list[Tensor] = []
        self._computed: list[Tensor] = []

    def schedule_reason(self, sigma: float) -> str | None:
        """Why a forward at this sigma is dense, or None."""
        if sigma > self.start_sigma * (1 + TIE):
            return f"start_percent: sparse from {self.settings.start_percent:.0%} of the schedule on"
        if sigma < self.end_sigma * (1 - TIE):
            return f"end_percent: sparse until {self.settings.end_percent:.0%} of the schedule"
        return None

    def begin_forward(self, options: dict) -> None:
        """Reads the sampler's schedule, once, from a forward's transformer_options."""
        if not self._schedule_read:
            self._schedule_read = True
            schedule = options.get("sample_sigmas")
            # Without a schedule warm-up work is worth its price; a last sigma of 0 is no step.
            self.goes_sparse = schedule is None or any(self.schedule_reason(sigma) is None for sigma in schedule.tolist()[:-1])

    def fail(self, error: Exception) -> str:
        """Keeps the rest of the run dense after an error; its traceback is logged once. Returns the reason."""
        with self._lock:
            first = self.failure is None
            self.failure = f"error: {type(error).__name__}: {error}"
        if first:
            log.warning("%s %s failed; the rest of this run is dense", PREFIX, self.settings.method, exc_info=error)
        return self.failure

    def count_dense(self, reason: str) -> None:
        """Counts a call that stays dense; `reason` is "label: explanation"."""
        label = reason.partition(":")[0]
        with self._lock:
            self._dense[label] += 1
        if label not in ("start_percent", "end_percent", "dense_blocks"):
            self.say_once(f"stays dense, {reason}")

    def count_sparse(self, stats: AttentionStats, layer: int) -> None:
        """Counts a sparse call; the figures stay on their device until the run ends, nothing waits for it."""
        with self._lock:
            self._density.append(stats.density.mean())
            self._computed.append(stats.computed.mean())
        if self.settings.verbose:
            line = "%s %s: layer %d: density %.3f, error %.4f"
            log.info(line, PREFIX, self.settings.method, layer, stats.density.mean(), stats.error.mean())

    def say_once(self, message: str) -> None:
        """Logs `message` at INFO, once a run."""
        with self._lock:
            new = message not in self._said
            self._said.add(message)
        if new:
            log.info("%s %s: %s", PREFIX, self.settings.method, message)

    def close(self) -> None:
        """Frees the state."""
        self.state.clear()

    def report(self) -> dict:
        """What happened, JSON-ready: density and computed are means over the sparse calls, None without any."""
        sparse_calls = len(self._density)
        return {
            "node": self.settings.node_id,
            "method": self.settings.method,
            "sparse_calls": sparse_calls,
            "calls": sparse_calls + self._dense.total(),
            "density": _mean(self._density),
            "computed": _mean(self._computed),
            "dense_reasons": dict(self._dense),
            "kernel_failures": failures(),
        }


def summary(report: dict) -> str:
    """The line of a run: `SVG2: sparse 36/48 calls, density 0.31, computed 0.33, dense: 8 start_percent`."""
    parts = [f"{report['method']}: sparse {report['sparse_calls']}/{report['calls']} calls"]
    if report["sparse_calls"]:
        parts.append(f"density {report['density']:.2f}, computed {report['computed']:.2f}")
    if report["dense_reasons"]:
        parts.append("dense: " + ", ".join(f"{n} {label}" for label, n in report["dense_reasons"].items()))
    if report["kernel_failures"]:
        parts.append("torch in place of Triton: " + ", ".join(report["kernel_failures"]))
    return ", ".join(parts)


def _mean(values: list[Tensor]) -> float | None:
    if not values:
        return None
    # One wait per device, here: the calls themselves never waited.
    return float(torch.stack([value.to(values[0].device) for value in values]).mean())
