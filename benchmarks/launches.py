"""How many operations does a call in the middle of a run start? Each waits about 5 us for its turn on a GPU.

They are counted on the meta device, and with them the bytes allocated: real shapes, no GPU, no work. What the CUDA
allocator rounds up and what sorting needs inside torch is not in it: memory.py measures that on a GPU.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch
from weakref import finalize

import torch
from calls import call_options, methods
from measure import parse_arguments, run
from shapes import Shape
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import sparse_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

COLUMNS = ("shape", "provider", "launches", "torch", "triton", "most")
# Kernels are not compiled where there is no GPU; launching them does nothing here.
os.environ["TRITON_INTERPRET"] = "1"


class Counts(TorchDispatchMode):
    """Counts operators, and the storages that they make while tensors in them live; what was there before does not count.

    Attributes:
        torch: operators by name, without views and bare allocations, which start nothing. One counts once, though some,
            such as a sort, are several kernels.
        triton: kernels by name.
        alive, peak: bytes now, and at most so far.
    """

    def __init__(self):
        super().__init__()
        self.torch, self.triton, self._tensors = Counter(), Counter(), Counter()
        self.alive = self.peak = 0

    def restart(self) -> None:
        """Forgets all but what is alive."""
        self.torch.clear(), self.triton.clear()
        self.peak = self.alive

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor) and (_storage(x) in self._tensors or _storage(x) not in given):
                self._watch(x)
        returns = function._schema.returns
        views = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if not views and not function.name().startswith("aten::empty"):
            self.torch[function.name()] += 1
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


def count(shape: Shape, config, batch: int = 1, conditionings: int = 1, precision: str = PRECISIONS[0]) -> Counts:
    """Of a bf16 call with its error measured; `peak` is without its output. The batch has so many conditionings of a video."""
    from triton.runtime.interpreter import InterpretedFunction

    size = (batch, shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (torch.empty(size, dtype=torch.bfloat16, device="meta").transpose(1, 2) for _ in range(3))
    options, counts = call_options(config, shape, conditionings), Counts()

    def launcher(kernel, grid):
        return lambda *args, **kwargs: counts.triton.update([kernel.fn.__name__])

    with patch.object(InterpretedFunction, "__getitem__", launcher), counts:
        for _ in range(2):  # a run's first call makes what the others find
            counts.restart()
            sparse_attention(q, k, v, **options, measure_error=True, backend="triton", precision=precision)
    counts.peak -= q.numel() * q.element_size()
    return counts


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a method."""
    for provider, config in methods(shape).items():
        counts = count(shape, config)
        row = {"torch": counts.torch.total(), "triton": counts.triton.total()}
        most = (counts.torch + counts.triton).most_common(3)
        row["most"] = ", ".join(f"{name.removeprefix('aten::')} {times}" for name, times in most)
        yield {"provider": provider, "launches": row["torch"] + row["triton"], **row}


if __name__ == "__main__":
    run("launches", COLUMNS, rows_of, parse_arguments(__doc__))
