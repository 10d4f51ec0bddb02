"""One sampling run: its state, its place in the schedule, what it tells."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict

import torch

from ..kernels import failures
from ..svg_core import AttentionStats, SparseState
from ..svg_core.attention import WORKSPACE_BYTES
from .log import PREFIX, log, say
from .record import Record
from .settings import Settings

# A step that falls on the border runs sparse: the sampler's sigmas are float32, the border is not.
TIE = 1e-5
BY_SETTING = ("start_percent", "end_percent", "dense_blocks")  # dense because the user said so: no news for the log
_numbers = itertools.count(1)


class Run:
    """From the start of a sampler's run to its end, however it ends. Threads of one run share it.

    Attributes:
        settings: the node's.
        record: what it did.
        start_sigma, end_sigma: sparse while end_sigma <= sigma <= start_sigma.
        workspace_bytes: of key lists at a time; halved when memory runs out.
        goes_sparse: a later step of this sampler's schedule is within these.
        forwards: of the model so far, as they came past this node.
        compiles_anew: the compiled model was thrown away once, since it had been compiled without this node.
        failure: the reason to stay dense after an error, or None.
    """

    def __init__(
        self,
        settings: Settings,
        start_sigma: float,
        end_sigma: float,
        state_bytes: int | None = None,
        workspace_bytes: int = WORKSPACE_BYTES,
        tell: Callable[[str, dict], None] = lambda kind, message: None,
    ):
        """Args beyond the attributes: `state_bytes` that may stay on a GPU, and `tell(kind, message)` to the page."""
        self.settings = settings
        self.record = Record()
        self.workspace_bytes = workspace_bytes
        self.start_sigma, self.end_sigma = start_sigma, end_sigma
        self.failure: str | None = None
        self.goes_sparse = False
        self.forwards = 0
        self.compiles_anew = False
        self._number = next(_numbers)
        self._tell = tell
        self._state_bytes = state_bytes
        self._states: dict[torch.device, SparseState] = {}
        self._lock = threading.Lock()
        self._schedule: list[float] | None = None
        self._sigma: float | None = None
        self._step = -1
        self._said: set[str] = set()

    def state_on(self, device: torch.device) -> SparseState:
        """The planners' state, dropped at the end; newer hosts run a conditioning a GPU, each in a thread of its own."""
        with self._lock:
            return self._states.setdefault(device, SparseState(self._state_bytes))

    def schedule_reason(self, sigma: float) -> str | None:
        """Why a forward at this sigma is dense, or None."""
        if sigma > self.start_sigma * (1 + TIE):
            return f"start_percent: sparse from {self.settings.start_percent:.0%} of the schedule on"
        if sigma < self.end_sigma * (1 - TIE):
            return f"end_percent: sparse until {self.settings.end_percent:.0%} of the schedule"
        return None

    def begin_forward(self, options: dict) -> str | None:
        """Takes note of a forward, from its transformer_options; returns why it is dense by the schedule, or None."""
        sigma = float(options["sigmas"].max())  # waits for all that was queued before: telling of it costs nothing more
        if not self.forwards:
            schedule = options.get("sample_sigmas")
            self._schedule = None if schedule is None else schedule.tolist()[:-1]  # a last sigma of 0 is no step
            # Without a schedule warm-up work is worth its price.
            steps = self._schedule or [sigma]
            self.goes_sparse = schedule is None or any(self.schedule_reason(step) is None for step in steps)
        self.forwards += 1
        step = self._step_at(sigma)
        if step != self._step:
            self._tell_step()
        self._step, self._sigma = step, sigma
        return self.schedule_reason(sigma)

    def _step_at(self, sigma: float) -> int:
        """Which step of the sampler's a forward belongs to: the last whose sigma is not below; counted without a schedule."""
        if self._schedule is None:
            return self._step + (sigma != self._sigma)
        return max(0, sum(step >= sigma * (1 - TIE) for step in self._schedule) - 1)

    def _tell_step(self) -> None:
        if self._step >= 0:
            steps = None if self._schedule is None else len(self._schedule)
            self._tell("step", {**self._labels(), "steps": steps, **self.record.step(self._step)})

    def _labels(self) -> dict:
        return {"node": self.settings.node_id, "run": self._number, "method": self.settings.method}

    def halve_workspace(self) -> None:
        """After an out-of-memory: fewer heads at a time for the rest of the run."""
        self.workspace_bytes //= 2
        self.say_once("out of memory, so fewer heads at a time from here on")

    def fail(self, error: Exception, label: str = "error") -> str:
        """Keeps the rest of the run dense after an error; its traceback is logged once. Returns the reason."""
        with self._lock:
            first = self.failure is None
            self.failure = f"{label}: {type(error).__name__}: {error}"
        if first:
            log.warning("%s %s failed; the rest of this run is dense", PREFIX, self.settings.method, exc_info=error)
        return self.failure

    def count_dense(self, reason: str, layer: int | None = None) -> None:
        """Counts a call that stays dense; `reason` is "label: explanation"."""
        self.record.count_dense(max(0, self._step), reason, layer)
        if not reason.startswith(BY_SETTING):
            self.say_once(f"stays dense, {reason}")

    def count_sparse(self, stats: Sequence[AttentionStats], layer: int) -> None:
        """Counts a sparse call, its stats by elements of the batch or all in one."""
        self.record.count_sparse(self._step, stats, layer)
        if self.settings.verbose:
            density, error = (torch.cat([getattr(part, name) for part in stats]).mean() for name in ("density", "error"))
            log.info("%s %s: layer %d: density %.3f, error %.4f", PREFIX, self.settings.method, layer, density, error)

    def say_once(self, message: str) -> None:
        """Logs `message` at INFO, once a run."""
        with self._lock:
            new = message not in self._said
            self._said.add(message)
        if new:
            say(self.settings.method, message)

    def close(self) -> dict:
        """Frees the state and tells the page how it ended; returns the report."""
        for state in self._states.values():
            state.clear()
        self._tell_step()
        report = self.report()
        self._tell("run", report)
        return report

    def report(self) -> dict:
        """What happened, JSON-ready; figures as in `Record.report`."""
        settings = asdict(self.settings)
        settings |= settings.pop("config") | {"dense_blocks": sorted(self.settings.dense_blocks)}
        return {**self._labels(), "settings": settings, **self.record.report(), "kernel_failures": failures()}


def summary(report: dict) -> str:
    """The line of a run: `SVG2: sparse 36/48 calls, density 0.31, computed 0.33, error 2.1 %, dense: 8 start_percent`."""
    parts = [f"{report['method']}: sparse {report['sparse_calls']}/{report['calls']} calls"]
    if report["sparse_calls"]:
        parts.append(f"density {report['density']:.2f}, computed {report['computed']:.2f}")
    if report["error"] is not None:
        parts.append(f"error {report['error']:.1%}")
    if report["dense_heads"]:
        parts.append(f"{report['dense_heads']:.1%} of heads above max_error and dense")
    if report["dense_reasons"]:
        parts.append("dense: " + ", ".join(f"{n} {label}" for label, n in report["dense_reasons"].items()))
    if report["not_finite_calls"]:
        parts.append(f"NaN or infinity in {report['not_finite_calls']} of them, which the model's own q, k or v brought")
    if report["kernel_failures"]:
        parts.append("torch in place of Triton: " + ", ".join(report["kernel_failures"]))
    return ", ".join(parts)
