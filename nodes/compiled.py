"""Beside torch.compile: hosts compile models without guards on transformer_options, so what was compiled without this
node is used with it. Then that code is thrown away, once, and the next pass compiles the model with the node in it.
"""

from __future__ import annotations

import sys
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from .log import PREFIX, log


class CompiledCode:
    """Throws a model's compiled code away when no pass of a model is under way, in any thread.

    Attributes:
        in_vain: models for which that did not help.
    """

    def __init__(self):
        self.in_vain: weakref.WeakSet[nn.Module] = weakref.WeakSet()
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
                if not self._passes and self._stale:
                    stale, self._stale = self._stale, []
                    for model in stale:
                        _forget(model)

    def throw_away(self, model: nn.Module) -> None:
        """Throws the model's code away as soon as all passes have ended; called within one."""
        with self._lock:
            self._stale.append(model)


def _forget(model: nn.Module) -> None:
    """Makes torch.compile forget what it made of the model's functions; other models of the same classes share them."""
    try:
        from torch._dynamo.eval_frame import reset_code

        for function in _functions(model):
            reset_code(function.__code__)
    except Exception as error:  # torch's own matter, which changes: the model goes on as it was compiled
        log.warning("%s what torch.compile made of %s could not be discarded", PREFIX, type(model).__name__, exc_info=error)


def _functions(model: nn.Module) -> Iterator[types.FunctionType]:
    """Functions that a pass may run: methods, and what their modules name, pieces of functions that were cut among it."""
    classes = {base for part in model.modules() for base in type(part).__mro__ if not base.__module__.startswith("torch.")}
    scopes = [vars(c) for c in classes] + [vars(sys.modules[m]) for m in {c.__module__ for c in classes} if m in sys.modules]
    for scope in scopes:
        for value in list(scope.values()):
            value = getattr(value, "__func__", value)
            if isinstance(value, types.FunctionType):
                yield value


code = CompiledCode()
