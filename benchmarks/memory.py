"""How much memory does a run need beyond dense attention: at the peak of a call, and kept from call to call?"""

from __future__ import annotations

import torch
from measure import Rows, inputs, interleaved, layout_of, on_gpu, parse_arguments
from shapes import SHAPES, Shape
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, sparse_attention
from sparse_videogen.svg_core.memory import call_bytes, state_bytes

BRANCHES = 2  # cond and uncond
BLOCK_M = 128
# counted: without a GPU, on the meta device; estimated: what the nodes tell the host; peak_bytes: measured on a GPU.
COLUMNS = ("shape", "provider", "counted_bytes", "estimated_bytes", "state_bytes", "run_bytes", "peak_bytes", "ms")


def counted(shape: Shape, config, batch: int = 1) -> int:
    """Bytes that a call in the middle of a run has allocated at its peak, its output apart, for bf16."""
    import allocations  # puts Triton into its interpreter: never where kernels shall run

    size = (batch, shape.tokens, shape.heads, shape.head_dim)
    q, k, v = (torch.empty(size, dtype=torch.bfloat16, device="meta").transpose(1, 2) for _ in range(3))
    state = SparseState()
    with allocations.kernels_do_nothing(), allocations.Allocations() as made:
        for _ in range(2):
            made.peak = made.alive
            call = {"layout": layout_of(shape), "state": state, "key": 0, "measure_error": True}
            sparse_attention(q, k, v, config=config, **call, backend="triton")
    return made.peak - q.numel() * q.element_size()


def measured(config, shape: Shape, arguments) -> dict:
    """Times and peak_bytes of a call in the middle of a run, on a GPU."""
    q, k, v = inputs(shape, arguments.device, arguments.dtype)
    call = {"config": config, "layout": layout_of(shape), "state": SparseState(), "key": 0}
    (times,) = interleaved({"call": lambda: sparse_attention(q, k, v, **call)}, arguments.device, arguments.repeats).values()
    return times


def main() -> None:
    """A row a shape and method."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name in arguments.shapes:
        shape = SHAPES[name]
        layout = layout_of(shape)
        size = {"batch": 1, "heads": shape.heads, "head_dim": shape.head_dim}
        clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
        for provider, config in (("svg", SVGConfig()), ("svg2", SVG2Config(**clusters))):
            row = {"op": "memory", "shape": name, "tokens": shape.tokens, "provider": provider}
            row["estimated_bytes"] = call_bytes(config, layout, block_m=BLOCK_M, **size)
            row["state_bytes"] = shape.layers * BRANCHES * state_bytes(config, layout, **size)
            if on_gpu(arguments.device):
                row |= measured(config, shape, arguments)
            else:
                row["counted_bytes"] = counted(shape, config)
                row["run_bytes"] = row["counted_bytes"] + row["state_bytes"]
            table.add(row)


if __name__ == "__main__":
    main()
