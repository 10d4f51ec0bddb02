"""How much memory does a sparse call need beyond q, k, v and out: its state, its lists, its peak?"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from functools import partial

import torch
from measure import Rows, each_shape, interleaved, layout_of, parse_arguments, plan_options
from sparse_videogen.kernels import choose_backend
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, sparse_attention, svg, svg2

COLUMNS = ("shape", "provider", "density", "state_bytes", "plan_bytes", "peak_bytes", "ms")


def tensor_bytes(value) -> int:
    """Bytes of all tensors in a dataclass, each storage once."""
    storages = {}

    def visit(item):
        if isinstance(item, torch.Tensor):
            storages[item.untyped_storage().data_ptr()] = item.untyped_storage().nbytes()
        elif is_dataclass(item):
            for field in fields(item):
                visit(getattr(item, field.name))

    visit(value)
    return sum(storages.values())


def main() -> None:
    """A row a shape and method, of a call in the middle of a run."""
    arguments = parse_arguments(__doc__)
    table = Rows(COLUMNS, arguments.json, arguments.device)
    for name, shape, q, k, v in each_shape(arguments):
        layout, backend = layout_of(shape), choose_backend("auto", q.device)
        options = plan_options(q)
        clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
        for provider, planner, config in (("svg", svg.plan, SVGConfig()), ("svg2", svg2.plan, SVG2Config(**clusters))):
            state = SparseState()
            call = partial(sparse_attention, q, k, v, config=config, layout=layout, state=state, key=0)
            (times,) = interleaved({provider: call}, arguments.device, arguments.repeats).values()
            plan_bytes = max(tensor_bytes(plan) for _, plan in planner(q, k, v, config, layout, SparseState(), 0, **options))
            row = {"op": "memory", "shape": name, "tokens": shape.tokens, "provider": f"{provider}-{backend}", **times}
            _, stats = call()
            row |= {"density": stats.density.mean().item(), "plan_bytes": plan_bytes}
            table.add({**row, "state_bytes": tensor_bytes(state.get(0)) if provider == "svg2" else 0})


if __name__ == "__main__":
    main()
