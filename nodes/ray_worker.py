"""What a Ray worker of raylight does for the nodes in ray.py, before and after each sampling run."""

from __future__ import annotations

import logging
import math

from comfy.patcher_extension import WrappersMP

from ..svg_core import METHODS
from . import sequence_parallel
from .log import PREFIX, log
from .memory import WithRunBytes
from .patch import install, remove, reports_of
from .settings import Settings

KEY = "sparse_videogen_worker"  # of the wrappers
KINDS = (WrappersMP.DIFFUSION_MODEL, WrappersMP.CALC_COND_BATCH)


class _Lines(logging.Handler):
    """Keeps what is worth a line in the log of ComfyUI's own process until the run is over: (level, line)."""

    def __init__(self):
        super().__init__()
        self.lines: list[tuple[int, str]] = []
        self._before: tuple[int, bool] | None = None

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, self.format(record)))

    def begin(self) -> None:
        self.lines.clear()
        self._before = self._before or (log.level, log.propagate)
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addHandler(self)

    def end(self) -> None:
        log.removeHandler(self)
        if self._before is not None:
            level, log.propagate = self._before
            log.setLevel(level)
            self._before = None


_log = _Lines()


def begin(model, method: str, values: dict, node_id: str | None):
    """The worker's ModelPatcher, patched; as it is after an error, which is logged.

    Args:
        method: its name in the core.
        values: the node's widgets by name, as `Settings.of` takes them.
    """
    _log.begin()
    try:
        _begin(model, method, values, node_id)
    except Exception as error:
        log.warning("%s %s: the node could not be put on a worker's model, which runs dense", PREFIX, method, exc_info=error)
        _take_off(model)
    return model


def _begin(model, method: str, values: dict, node_id: str | None) -> None:
    degrees = sequence_parallel.Degrees.here()
    config = next(config for config, planner in METHODS.items() if method == planner.NAME)
    settings = Settings.of(config, values | {"verbose": values["verbose"] and degrees.rank == 0}, node_id)
    install(model, settings, degrees.ulysses, log_end=lambda report: None)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, sequence_parallel.forward_wrapper)
    if degrees.cfg > 1:
        model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _in_one_batch)


def _in_one_batch(executor, model, *args):
    """CALC_COND_BATCH: raylight gives each GPU one conditioning of a batch, and insists on one batch of all."""
    return executor(WithRunBytes(model, lambda batch: -math.inf), *args)


def figures(model) -> dict:
    """What the run did and said: `report`, None if there was none, and `lines`, (level, text) each."""
    return {"report": next(reversed(reports_of(model).values()), None), "lines": list(_log.lines)}


def end(model):
    """The worker's ModelPatcher as it was before `begin`."""
    _take_off(model)
    _log.end()
    return model


def _take_off(model) -> None:
    for kind in KINDS:
        model.remove_wrappers_with_key(kind, KEY)
    remove(model)
