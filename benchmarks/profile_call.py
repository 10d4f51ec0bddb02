"""Where does the time of one sparse call go? Also the runs that other tools watch.

--mode call      profiles a call in the middle of a run: its kernels, their launches, and the share of each part
--mode kernel    runs gather_attention once, for Nsight Compute
--mode small     runs every kernel at small sizes against torch's results, for compute-sanitizer
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
from calls import PlannedCall, WrongResult, backend_of, call_options, planned, require_kernels, svg2_config
from device import gpu, milliseconds
from measure import inputs, parse_arguments, run, shapes_of
from shapes import Shape
from sparse_videogen.svg_core import SVGConfig, sparse_attention
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

COLUMNS = ("shape", "part", "launches", "ms", "share")
# Part of a call -> the kernels that are it, by name; the first that fits.
PARTS = {
    "attention": "gather_attention",
    "dense attention": "flash|fmha|sdpa|scaled_dot_product",
    "k-means: assign": "_assign_kernel|_pad_centroids",
    "k-means: centroids": "_centroids_kernel",
    "k-means: sort": "sort|radix|searchsorted",  # that of the bins, too
    "tiles: bins": "_bins_kernel",
    "choice: select": "_select_kernel|_tile_mass",
    "choice: score": "_score_kernel|_pad_clusters",
    "choice: budget": "_threshold_kernel|_keep_kernel",
    "choice: lists": "_pack_lists",
    "profiling": "_exact_rows",
    "products": "gemm|cutlass|nvjet|::mm|bmm",
    "other torch operations": "",
}
MOST_KERNELS = 20
MOST_TRACE_BYTES = 4 << 20


def part_of(kernel: str) -> str:
    """The part of a call that a kernel belongs to."""
    return next(part for part, pattern in PARTS.items() if re.search(pattern, kernel, re.IGNORECASE))


def profiler(device: torch.device | str) -> profile:
    """Of what runs on the device."""
    on_cuda = torch.device(device).type == "cuda"
    return profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_cuda else [])])


def kernels_of(seen: profile, device: torch.device | str) -> list[tuple[str, int, float]]:
    """Name, launches and ms of each kernel, longest first; on a CPU, as in a rehearsal, of torch's operators instead."""
    on_cuda = torch.device(device).type == "cuda"
    kind, field = (DeviceType.CUDA, "self_device_time_total") if on_cuda else (DeviceType.CPU, "self_cpu_time_total")
    kernels = [(x.key, x.count, getattr(x, field) / 1e3) for x in seen.key_averages() if x.device_type == kind]
    return sorted(kernels, key=lambda kernel: -kernel[2])


def by_part(kernels: list[tuple[str, int, float]]) -> list[tuple[str, int, float]]:
    """Launches and ms of each part that the kernels belong to, longest first."""
    parts = defaultdict(lambda: (0, 0.0))
    for name, launches, ms in kernels:
        parts[part_of(name)] = parts[part_of(name)][0] + launches, parts[part_of(name)][1] + ms
    return sorted(((part, *sums) for part, sums in parts.items()), key=lambda row: -row[2])


def profiled(function: Callable, device: torch.device | str, trace: Path | None) -> list[tuple[str, int, float]]:
    """`kernels_of` one call."""
    with profiler(device) as seen:
        function()
        gpu.synchronize()
    if trace is not None:
        seen.export_chrome_trace(str(trace))
        if trace.stat().st_size > MOST_TRACE_BYTES:
            print(f"{trace} was left out: {trace.stat().st_size >> 20} MB")
            trace.unlink()
    return kernels_of(seen, device)


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """Rows of a call after two that warmed up: the kernels that take longest, its parts, and all of it."""
    q, k, v = inputs(shape, arguments.device)
    call = partial(sparse_attention, q, k, v, **call_options(config_for(shape), shape))
    call(), call()
    require_kernels()
    wall_ms = milliseconds(call, q.device)
    kernels = profiled(call, q.device, arguments.trace)
    launched, total_ms = (sum(each) for each in list(zip(*kernels, strict=True))[1:])
    made = [(f"kernel {name[:90]}", launches, ms) for name, launches, ms in kernels[:MOST_KERNELS]]
    made += [*by_part(kernels), ("all kernels", launched, total_ms), ("whole call", launched, wall_ms)]
    common = {"heads": shape.heads, "provider": "svg2"}
    for part, launches, ms in made:
        yield {**common, "part": part, "launches": launches, "ms": ms, "share": ms / wall_ms}


def config_for(shape: Shape):
    """SVG2 as the nodes run it, at about a quarter of all pairs."""
    return svg2_config(shape, 0.25, kmeans_init_iters=4)


def run_kernel(shape: Shape, device: str) -> None:
    """gather_attention once at full size, over the plan of the first heads; the lists come before a tail that is apart."""
    q, k, v = inputs(shape, device)
    where, plan = next(planned(q, k, v, call_options(config_for(shape), shape))[-1].parts)
    PlannedCall(q, k, v, [(where, plan)]).run()
    require_kernels()
    print(f"{plan.query_index.shape[1]} tiles each of {plan.list_of_head.shape[1]} heads; a tail apart is a launch of its own")


def run_small(device: str) -> None:
    """All planners, without and with the tail, at sizes that leave tiles and lists unfilled; raises if torch differs."""
    shape = Shape(2, 128, 3, 9, 7, text=5, q_clusters=6, k_clusters=20)
    choices = ({"density": 0.3, "tail": "off"}, {"density": 0.3}, {"choose_by": "top_p", "top_p": 0.5})
    svg2 = (svg2_config(shape, **choice) for choice in choices)
    q, k, v = inputs(shape, device, torch.float16)
    for config in (SVGConfig(sparsity=0.5), *svg2):
        out, expected = (
            sparse_attention(q, k, v, **call_options(config, shape), measure_error=True, backend=backend)[0]
            for backend in (backend_of(q), "torch")
        )
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
        trace={"type": Path, "help": "where to write the trace, .json.gz; left out above 4 MB"},
    )
    if arguments.mode == "small":
        run_small(arguments.device)
    elif arguments.mode == "kernel":
        for _, shape in shapes_of(arguments):
            run_kernel(shape, arguments.device)
    else:
        run("profile", COLUMNS, rows_of, arguments)


if __name__ == "__main__":
    main()
