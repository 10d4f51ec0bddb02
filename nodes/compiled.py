"""Beside torch.compile: hosts compile models without guards on transformer_options, so what was compiled without this
node is used with it. Then that code is thrown away, once, and the next pass compiles the model with the node in it.
"""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


class CompiledCode:
    """Throws a model's compiled code away when no pass of a model is under way, in any thread."""

    def __init__(self):
        self._lock = threading.Lock()
        self._passes = 0
        self._stale: list[nn.Module] = []

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Around a pass through a model that may be compiled."""
        with self._lock:
            self._passes += 1
        try:
            yield
        finally:
            with self._lock:
                self._passes -= 1
                if not self._passes:
                    for model in self._stale:
                        _forget(model)
                    self._stale.clear()

    def throw_away(self, model: nn.Module) -> None:
        """Throws the model's code away as soon as all passes have ended; called within one."""
        with self._lock:
            self._stale.append(model)


def _forget(model: nn.Module) -> None:
    """Makes torch.compile forget the functions of the model's own classes and modules, and of nothing else."""
    from torch._dynamo.eval_frame import reset_code

    for function in _functions(model):
        reset_code(function.__code__)


def _functions(model: nn.Module) -> Iterator[types.FunctionType]:
    """Functions that a pass may run: methods, and what stands beside them, the pieces of cut functions among that."""
    classes = {base for part in model.modules() for base in type(part).__mro__ if not base.__module__.startswith("torch.")}
    scopes = [vars(c) for c in classes] + [vars(sys.modules[m]) for m in {c.__module__ for c in classes} if m in sys.modules]
    for scope in scopes:
        for value in list(scope.values()):
            value = getattr(value, "__func__", value)
            if isinstance(value, types.FunctionType):
                yield value


code = CompiledCode()
