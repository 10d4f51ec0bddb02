"""One sampling run: its state, its place in the schedule, what it tells."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate

import torch

from ..kernels import backend_status, failures, nearest_precision
from ..svg_core import WORKSPACE_BYTES, AttentionStats, SparseState, SVG2Config, SVGConfig, places
from .lines import run_words, step_words
from .log import PREFIX, log, say
from .pairing import ALIKE, Turn
from .reasons import Reason
from .record import Record
from .settings import Settings
from .sightings import Sightings

# A step that falls on the border runs sparse: the sampler's sigmas are float32, the border is not.
TIE = 1e-5
BY_SETTING = ("start_percent", "end_percent", "dense_blocks")  # dense because the user said so: no news for the log
_numbers = itertools.count(1)


@dataclass
class Share:
    """What a run has on one device: the planners' state, and bytes for what goes by groups of heads, halved when memory is
    short.
    """

    state: SparseState
    workspace_bytes: int


class Run:
    """From the start of a sampler's run to its end, however it ends. Threads of one run share it.

    Attributes:
        settings: the node's.
        record: what it did.
        start_sigma, end_sigma: sparse while end_sigma <= sigma <= start_sigma.
        goes_sparse: a later step of this sampler's schedule is within these.
        training: gradients were on when the model was called.
        sightings: whether the model's passes come past this node.
        latent_size: [B, C, T, H, W] of the video's latent, where the host tells it apart from the noise's; or None.
        extra_bytes: as `memory.RunBytes`, once the model was loaded.
        failure: the reason to stay dense after an error, or None.
        inexact: the override, another's and sparse itself, that took calls which we left dense; or None.
        turn: the evaluation of the model that is under way.
        parted: layers in which the conditionings of a video are too unlike to share their clusters.
        precision: in which the last sparse call's products were computed; None before there was one.
        precision_reason: why that is not what the node was set to, or None.
    """

    def __init__(
        self,
        settings: Settings,
        start_sigma: float,
        end_sigma: float,
        budgets: Callable[[torch.device], tuple[int | None, int]] = lambda device: (None, WORKSPACE_BYTES),
        tell: Callable[[str, dict], None] = lambda kind, message: None,
        progress: Callable[[float], float] | None = None,
    ):
        """Args beyond the attributes: `budgets(device)` -> bytes of (state, workspace); `tell(kind, message)` to the page;
        `progress(sigma)` -> the share of the schedule that has passed, or None where that is not known.
        """
        self.settings = settings
        self.record = Record()
        self.start_sigma, self.end_sigma = start_sigma, end_sigma
        self.failure: Reason | None = None
        self.goes_sparse = False
        self.training = False
        self.inexact: str | None = None
        self.sightings = Sightings()
        self.latent_size: tuple[int, ...] | None = None
        self.extra_bytes: Callable[[int, int], int] | None = None
        self.turn = Turn()
        self.parted: set[int] = set()
        self.precision: str | None = None
        self.precision_reason: str | None = None
        self._progress = progress
        self._number = next(_numbers)
        self._tell = tell
        self._budgets = budgets
        self._shares: dict[torch.device, Share] = {}
        self._lock = threading.Lock()
        self._began = False
        self._schedule: list[float] | None = None
        self._places: list[float] = []
        self._sigma: float | None = None
        self._step = -1
        self._said: set[str] = set()

    def on(self, device: torch.device) -> Share:
        """The run's share of a device; newer hosts run a conditioning a GPU, each in a thread of its own."""
        with self._lock:
            if device not in self._shares:
                state_bytes, workspace_bytes = self._budgets(device)
                self._shares[device] = Share(SparseState(state_bytes), workspace_bytes)
            return self._shares[device]

    def schedule_reason(self, sigma: float) -> Reason | None:
        """Why a forward at this sigma is dense, or None."""
        if sigma > self.start_sigma * (1 + TIE):
            return Reason("start_percent", f"sparse from {self.settings.start_percent:.0%} of the schedule on")
        if sigma < self.end_sigma * (1 - TIE):
            return Reason("end_percent", f"sparse until {self.settings.end_percent:.0%} of the schedule")
        return None

    def begin_forward(self, options: dict) -> Reason | None:
        """Takes note of a forward, from its transformer_options; returns why it is dense by the schedule, or None."""
        sigma = float(options["sigmas"].max())  # waits for all that was queued before: telling of it costs nothing more
        with self._lock:
            if not self._began:
                self._begin_schedule(sigma, options.get("sample_sigmas"))
            last, self._step = self._step, self._step_at(sigma)
            self._sigma = sigma
            ended = last if self._step != last else None
        if ended is not None:
            self._tell_step(ended)
        return self.schedule_reason(sigma)

    def begin_turn(self, conds: list) -> None:
        """Takes note that the sampler evaluates the model, for these conditionings by side of the guidance."""
        with self._lock:
            self.turn = self.turn.next(conds)

    @property
    def config(self) -> SVGConfig | SVG2Config:
        """The method's settings at this step."""
        return self.settings.config.at(self._places[self._step] if 0 <= self._step < len(self._places) else 0.5)

    def _begin_schedule(self, sigma: float, schedule: torch.Tensor | None) -> None:
        self._began = True
        sigmas = None if schedule is None else schedule.tolist()
        self._schedule = None if sigmas is None else sigmas[:-1]  # nothing is computed at the last sigma
        if sigmas and self._progress is not None:
            passed = [self._progress(step) for step in sigmas]
            self._places = places(list(accumulate(passed, max)), self.settings.start_percent, self.settings.end_percent)
        # Without a schedule warm-up work is worth its price.
        self.goes_sparse = schedule is None or any(self.schedule_reason(step) is None for step in self._schedule or [sigma])

    def _step_at(self, sigma: float) -> int:
        """Which step of the sampler's a forward belongs to, in the order of execution; counted without a schedule.

        The next begins when its sigma is reached, whether they fall or rise; none begins twice.
        """
        if self._schedule is None:
            return self._step + (sigma != self._sigma)
        step = max(0, self._step)
        while step + 1 < len(self._schedule) and _reached(sigma, *self._schedule[step : step + 2]):
            step += 1
        return step

    def _tell_step(self, step: int) -> None:
        if step >= 0:
            steps = None if self._schedule is None else len(self._schedule)
            figures = self.record.step(step)
            self._part(self.record.alike(step))
            self._tell("step", {**self._labels(), "steps": steps, **figures, **step_words(figures, steps)})

    def _part(self, alike: list[float | None]) -> None:
        """From here on conditionings plan apart in layers where they were less alike than they have to be."""
        unlike = {layer for layer, likeness in enumerate(alike) if likeness is not None and likeness < ALIKE}
        self.parted |= unlike
        if unlike:
            self.say_once(f"in {len(unlike)} layers the keys with and without the prompt are not alike: they are planned apart")

    def _labels(self) -> dict:
        return {"node": self.settings.node_id, "run": self._number, "method": self.settings.method}

    def halve_workspace(self, device: torch.device) -> None:
        """After an out-of-memory: fewer heads at a time on this device for the rest of the run."""
        self.on(device).workspace_bytes //= 2
        self.say_once("out of memory: from here on fewer heads are computed at a time")

    def fail(self, error: Exception, label: str = "error") -> Reason:
        """Keeps the rest of the run dense after an error; its traceback is logged once. Returns the reason."""
        with self._lock:
            first = self.failure is None
            self.failure = Reason(label, f"{type(error).__name__}: {error}")
        if first:
            log.warning("%s %s failed; the rest of this run is dense", PREFIX, self.settings.method, exc_info=error)
        return self.failure

    def warn(self, message: str, error: Exception) -> None:
        """Logs `message` with the error's traceback; the run goes on."""
        log.warning("%s %s: %s", PREFIX, self.settings.method, message, exc_info=error)

    def count_dense(self, reason: Reason, layer: int | None = None) -> None:
        """Counts a call that stays dense."""
        self.record.count_dense(max(0, self._step), reason, layer)
        if reason.label not in BY_SETTING:
            self.say_once(f"stays dense, {reason.label}: {reason.text}")

    def note_precision(self, q: torch.Tensor) -> None:
        """Takes note of the precision of a sparse call with q [B, H, N, D]; says once where it is not the one set."""
        self.precision, reason = self.precision_for(q)
        if reason is not None:
            self.precision_reason = reason
            self.say_once(reason)

    def precision_for(self, q: torch.Tensor) -> tuple[str, str | None]:
        """In which precision a sparse call with q [B, H, N, D] runs, and why not as set; as `nearest_precision`."""
        backend, _ = backend_status(q.device, q.dtype, q.shape[3], self.settings.backend)
        return nearest_precision(self.settings.precision, q.shape[3], q.device, q.dtype, backend)

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
        for share in self._shares.values():
            share.state.clear()
        self._tell_step(self._step)
        report = self.report()
        self._tell("run", report)
        return report

    def report(self) -> dict:
        """What happened, JSON-ready; figures as in `Record.report`, words as in `run_words`."""
        settings = asdict(self.settings)
        settings |= settings.pop("config") | {"dense_blocks": sorted(self.settings.dense_blocks)}
        told = {"gpus": 1, "kernel_failures": failures(), "inexact_dense": self.inexact}
        told |= {"precision": self.precision, "precision_reason": self.precision_reason}
        report = {**self._labels(), "settings": settings, **self.record.report(), **told}
        return report | run_words(report)


def _reached(sigma: float, step: float, following: float) -> bool:
    """Whether a sigma is at or past the following step's, on the way there from this step's."""
    return sigma >= following * (1 - TIE) if following > step else sigma <= following * (1 + TIE)
