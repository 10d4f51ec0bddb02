"""Where does the time of one sparse call go? Also the runs that other tools watch.

--mode call      profiles a call in the middle of a run: its kernels, their launches, and the share of each part
--mode kernel    runs gather_attention once, for Nsight Compute
--mode small     runs every kernel at small sizes against torch's results, for compute-sanitizer
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from checks import WrongResult, require_kernels, run_plan
from measure import Rows, inputs, layout_of, milliseconds, parse_arguments, plan_options, profiled
from shapes import SHAPES, Shape
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans, sparse_attention

COLUMNS = ("shape", "part", "launches", "ms", "share")
# Part of a call -> the kernels that are it, by name; the first that fits.
PARTS = {
    "attention": "gather_attention",
    "k-means: assign": "_assign_kernel|_pad_centroids",
    "k-means: centroids": "_centroids_kernel",
    "k-means: sort": "sort|radix|searchsorted",
    "choice: select": "_select_kernel|_tile_mass",
    "choice: lists": "_pack_lists",
    "profiling": "_exact_rows",
    "products": "gemm|cutlass|nvjet|::mm|bmm",
}
OTHER = "other torch operations"
MOST_KERNELS = 20
MOST_TRACE_BYTES = 4 << 20


def part_of(kernel: str) -> str:
    """The part of a call that a kernel belongs to."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, kernel, re.IGNORECASE)), OTHER)


def config_for(shape: Shape) -> SVG2Config:
    """SVG2 as the nodes run it, at about a quarter of all pairs."""
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 4}
    return SVG2Config(top_p=1e-3, min_keep=0.25, **clusters)


def profile_call(shape: Shape, q, k, v, trace: Path | None) -> list[dict]:
    """Rows of a call after two that warmed up: the kernels that take longest, its parts, and all of it."""
    call = {"config": config_for(shape), "layout": layout_of(shape), "state": SparseState(), "key": 0}
    for _ in range(2):
        sparse_attention(q, k, v, **call)
    require_kernels()
    wall_ms = milliseconds(lambda: sparse_attention(q, k, v, **call), q.device)
    kernels = profiled(lambda: sparse_attention(q, k, v, **call), q.device, trace)
    if trace and trace.exists() and trace.stat().st_size > MOST_TRACE_BYTES:
        print(f"{trace} was left out: {trace.stat().st_size >> 20} MB")
        trace.unlink()
    total_ms = sum(ms for _, _, ms in kernels)
    parts = defaultdict(lambda: [0, 0.0])
    for name, launches, ms in kernels:
        parts[part_of(name)][0] += launches
        parts[part_of(name)][1] += ms
    longest = sorted(kernels, key=lambda kernel: -kernel[2])[:MOST_KERNELS]
    made = [(f"kernel {name[:90]}", launches, ms) for name, launches, ms in longest]
    made += sorted(((part, *sums) for part, sums in parts.items()), key=lambda row: -row[2])
    launched = sum(launches for _, launches, _ in kernels)
    made += [("all kernels", launched, total_ms), ("whole call", launched, wall_ms)]
    return [{"part": part, "launches": launches, "ms": ms, "share": ms / wall_ms} for part, launches, ms in made]


def launch_once(shape: Shape, q, k, v) -> None:
    """gather_attention once at full size, over the plan of the first heads; the lists come before a tail that is apart."""
    options = plan_options(q)
    planned = plans(q, k, v, config_for(shape), layout_of(shape), SparseState(), 0, **options)
    where, plan = next(planned[-1].parts)
    run_plan(q, k, v, [(where, plan)], options["backend"])
    require_kernels()
    print(f"{plan.query_index.shape[1]} tiles each of {plan.list_of_head.shape[1]} heads; a tail apart is a launch of its own")


def run_small(device: str) -> None:
    """Both methods, without and with the tail, at sizes that leave tiles and lists unfilled; raises if torch differs."""
    shape = Shape(2, 128, 3, 9, 7, text=5, q_clusters=6, k_clusters=20)
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "top_p": 0.5, "kmeans_init_iters": 2}
    configs = [SVGConfig(sparsity=0.5), *(SVG2Config(**clusters, tail=tail) for tail in ("off", "second_order"))]
    q, k, v = inputs(shape, device, torch.float16)
    for config in configs:
        call = {"config": config, "layout": layout_of(shape), "measure_error": True}
        out, _ = sparse_attention(q, k, v, **call, backend=plan_options(q)["backend"])
        expected, _ = sparse_attention(q, k, v, **call, backend="torch")
        require_kernels()
        # Rounding may choose other clusters for a few tokens; what is not finite or far off is the kernels'.
        error = ((out - expected).float().norm() / expected.float().norm()).item()
        print(f"{config}: relative difference {error:.2g}")
        if not error < 0.1:
            raise WrongResult(f"relative difference {error:.3g} from torch's result, allowed is 0.1")


def main() -> None:
    """As --mode says."""
    arguments = parse_arguments(
        __doc__,
        {"shapes": ["wan14b_720p"]},
        mode={"choices": ("call", "kernel", "small"), "default": "call"},
        heads={"type": int, "default": 40, "help": "of the shape, at most"},
        trace={"type": Path, "help": "where to write the trace, .json.gz; left out above 4 MB"},
    )
    if arguments.mode == "small":
        return run_small(arguments.device)
    for name in arguments.shapes:
        shape = replace(SHAPES[name], heads=min(arguments.heads, SHAPES[name].heads))
        q, k, v = inputs(shape, arguments.device, arguments.dtype)
        if arguments.mode == "kernel":
            launch_once(shape, q, k, v)
            continue
        table = Rows(COLUMNS, arguments.json, arguments.device)
        for row in profile_call(shape, q, k, v, arguments.trace):
            table.add({"op": "profile", "shape": name, "tokens": shape.tokens, "heads": shape.heads, "provider": "svg2", **row})


if __name__ == "__main__":
    main()
