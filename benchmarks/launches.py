"""How many operations does a call in the middle of a run start? Each waits about 5 us for its turn on a GPU."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager

import allocations
import torch
from measure import Rows, layout_of, parse_arguments
from shapes import SHAPES, Shape
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, sparse_attention
from torch.utils._python_dispatch import TorchDispatchMode

COLUMNS = ("shape", "provider", "launches", "torch", "triton", "most")


class Launches(TorchDispatchMode):
    """Counts torch's operators by name, without views and bare allocations, which start nothing.

    An operator counts once, though some, such as a sort, are several kernels. Triton's kernels count under their names.
    """

    def __init__(self):
        super().__init__()
        self.torch, self.triton = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returns = function._schema.returns
        views = any(value.alias_info is not None and not value.alias_info.is_write for value in returns)
        if not views and not function.name().startswith("aten::empty"):
            self.torch[function.name()] += 1
        return function(*args, **(kwargs or {}))

    @contextmanager
    def counting(self):
        """Counts what happens inside, kernels included, which do nothing."""
        with allocations.kernels_do_nothing(lambda name: self.triton.update([name])), self:
            yield self


def count(shape: Shape, config: SVGConfig | SVG2Config) -> Launches:
    """Of a call with its error measured, on the meta device: real shapes, no GPU, no work."""
    size = (1, shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (torch.empty(size, dtype=torch.bfloat16, device="meta").transpose(1, 2) for _ in range(3))
    call = {"config": config, "layout": layout_of(shape), "state": SparseState(), "key": 0, "measure_error": True}
    with Launches().counting():  # a run's first call makes what the others find
        sparse_attention(q, k, v, **call, backend="triton")
    with Launches().counting() as launches:
        sparse_attention(q, k, v, **call, backend="triton")
    return launches


def main() -> None:
    """A row a shape and method."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, "cpu")
    for name in arguments.shapes:
        shape = SHAPES[name]
        clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
        for provider, config in (("svg", SVGConfig()), ("svg2", SVG2Config(**clusters))):
            launches = count(shape, config)
            row = {"op": "launches", "shape": name, "tokens": shape.tokens, "provider": provider}
            row |= {"torch": launches.torch.total(), "triton": launches.triton.total()}
            most = (launches.torch + launches.triton).most_common(3)
            row["most"] = ", ".join(f"{name.removeprefix('aten::')} {times}" for name, times in most)
            table.add({**row, "launches": row["torch"] + row["triton"]})


if __name__ == "__main__":
    main()
