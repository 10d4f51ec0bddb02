"""What a Ray worker of raylight does for the nodes in ray.py, before and after each sampling run."""

from __future__ import annotations

import logging

from comfy.patcher_extension import WrappersMP

from ..svg_core import METHODS
from . import sequence_parallel
from .log import log
from .patch import install, remove, reports_of
from .settings import Settings

# What is worth a line in the log of ComfyUI's own process is kept until the run is over: (level, line).
_lines: list[tuple[int, str]] = []


class _Keep(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _lines.append((record.levelno, self.format(record)))


_keep = _Keep()


def begin(model, method: str, values: dict, node_id: str | None):
    """The worker's ModelPatcher, patched.

    Args:
        method: its name in the core.
        values: the node's widgets by name, as `Settings.of` takes them.
    """
    _lines.clear()
    log.setLevel(logging.INFO)
    log.addHandler(_keep)
    log.propagate = False
    config = next(config for config, planner in METHODS.items() if method == planner.NAME)
    gpus = sequence_parallel.Degrees.here().ulysses
    install(model, Settings.of(config, values, node_id), gpus, log_end=lambda report: None)
    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, sequence_parallel.KEY, sequence_parallel.forward_wrapper)
    return model


def figures(model) -> dict:
    """What the run did and said: `report`, None if there was none, and `lines`, (level, text) each."""
    return {"report": next(reversed(reports_of(model).values()), None), "lines": list(_lines)}


def end(model):
    """The worker's ModelPatcher as it was before `begin`."""
    model.remove_wrappers_with_key(WrappersMP.DIFFUSION_MODEL, sequence_parallel.KEY)
    remove(model)
    log.removeHandler(_keep)
    log.propagate = True
    return model
