"""How many bytes of tensors are alive at the peak of a call, counted on the meta device: real shapes, no GPU, no work.

What the CUDA allocator rounds up and what sorting needs inside torch is not in it: benchmarks/memory.py measures
that on a GPU.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from unittest.mock import patch
from weakref import finalize

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Kernels are not compiled where there is no GPU; launching them does nothing here.
os.environ["TRITON_INTERPRET"] = "1"


class Allocations(TorchDispatchMode):
    """Counts the storages that operators make, while tensors in them live; what was there before does not count.

    Attributes:
        alive, peak: bytes now, and at most so far.
    """

    def __init__(self):
        super().__init__()
        self.alive = self.peak = 0
        self._tensors = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and (_storage(x) in self._tensors or _storage(x) not in given):
                self._watch(x)
        return result

    def _watch(self, x: torch.Tensor) -> None:
        key, size = _storage(x), x.untyped_storage().nbytes()
        if not self._tensors[key]:
            self.alive += size
            self.peak = max(self.peak, self.alive)
        self._tensors[key] += 1
        finalize(x, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._tensors[key] -= 1
        if not self._tensors[key]:
            del self._tensors[key]
            self.alive -= size


def _storage(x: torch.Tensor) -> int:
    return x.untyped_storage()._cdata


@contextmanager
def kernels_do_nothing(started: Callable[[str], None] = lambda name: None):
    """Triton's launches return at once, after `started` was told the kernel's name; torch's own operators go on."""
    from triton.runtime.interpreter import InterpretedFunction

    def launcher(self, grid):
        return lambda *args, **kwargs: started(self.fn.__name__)

    with patch.object(InterpretedFunction, "__getitem__", launcher):
        yield
