"""How long should a call take on a GPU that is not at hand, part by part, and what limits it?

A model of the time from counts alone: instructions and registers of the compiled kernels (results/compiled.jsonl), bytes
that move, the lists of a real plan and what the planner launches. Where results hold a measured time of the same
thing, it stands beside the predicted one.
"""

from __future__ import annotations

import argparse
import heapq
import json
from dataclasses import dataclass
from functools import cache, partial

import launches
import torch
from measure import inputs, layout_of, use_tiles
from report import RESULTS, read
from shapes import SHAPES, Shape
from sparse_videogen.kernels.tile_configs import TileConfig, config_for
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, plans
from sparse_videogen.svg_core.attention import WORKSPACE_BYTES
from sparse_videogen.svg_core.svg2 import list_bytes

LAUNCH_MS = 5e-3  # from one small operation's start to the next's
# Cycles of a turn beyond its products and its other instructions: barriers, and the way into and out of the matrix units.
# Fitted to one figure: Triton's own dense attention reaches 477 TFLOP/s on an H100 at head_dim 128 (its tutorial, 128 x 64).
TURN_CYCLES = 370
EXPOSED_CYCLES = 900  # from an index to its row in shared memory, where a turn waits for it
PROGRAM_CYCLES = 3000  # a program's start and end: its rows of q, the last block, its rows of out


@dataclass(frozen=True)
class Gpu:
    """A GPU by its maker's figures; what is computed at a time is a multiprocessor's.

    Attributes:
        arch: in the table of tile configs.
        device: a part of the name that the driver gives it.
        sms, ghz: multiprocessors, and their clock under such a load.
        matrix: operations of 16-bit matrix products with float32 sums, a cycle (a multiply-add is two).
        lanes: of float32 and of integer and comparing instructions.
        threads: that it holds at a time.
        shared_bytes: shared memory.
        l2_gbs, memory_gbs: what all can read from the L2 cache and from memory, GB/s.
        dense_tflops: of the best dense attention, head_dim 128, and whose.
    """

    name: str
    arch: str
    device: str
    sms: int
    ghz: float
    matrix: int
    lanes: tuple[int, int]
    threads: int
    shared_bytes: int
    l2_gbs: float
    memory_gbs: float
    dense_tflops: float
    dense: str

    def ms(self, cycles: float) -> float:
        return cycles / self.ghz / 1e6


GPUS = (
    Gpu("A100 SXM", "8.0", "A100", 108, 1.41, 2048, (64, 64), 2048, 164 << 10, 4400, 2039, 200, "FlashAttention 2"),
    Gpu("H100 SXM", "9.0", "H100", 132, 1.70, 4096, (128, 64), 2048, 228 << 10, 5500, 3350, 621, "FlashAttention 3"),
    Gpu("RTX 4090", "8.9", "4090", 128, 2.52, 512, (128, 64), 1536, 100 << 10, 5000, 1008, 150, "FlashAttention 2"),
    Gpu("RTX 5090", "12.0", "5090", 170, 2.41, 512, (128, 128), 1536, 100 << 10, 7000, 1792, 200, "FlashAttention 2"),
)


@dataclass(frozen=True)
class Part:
    """A part of a call: milliseconds, and what they are spent on."""

    name: str
    ms: float
    limit: str


@dataclass(frozen=True)
class Loop:
    """A compiled loop on one GPU: what a turn of one program costs.

    Attributes:
        cycles: from one turn to the next, if nothing else runs.
        busy: by unit, cycles for which the turn occupies it; programs that run side by side share the units.
        resident: programs that a multiprocessor holds at a time.
    """

    cycles: float
    busy: dict[str, float]
    resident: int

    @property
    def rate(self) -> float:
        """Cycles a turn where `resident` programs share a multiprocessor."""
        return max(self.cycles / self.resident, *self.busy.values())

    @property
    def limit(self) -> str:
        """What decides."""
        unit = max(self.busy, key=self.busy.get)
        return unit if self.busy[unit] >= self.cycles / self.resident else "one turn after the other"


def loop_of(row: dict, number: int, gpu: Gpu, flops: float, l2_bytes: float) -> Loop:
    """A loop of a compiled kernel, whose turn computes `flops` on the matrix units and reads `l2_bytes`."""
    tile, turn = TileConfig.parse(row["config"]), row["loops"][number]
    count, warps = turn["by_class"], tile.num_warps
    registers = -(-row["registers"] // 8) * 8
    fits = 65536 // (registers * 32 * warps), gpu.shared_bytes // (row["shared_bytes"] + 1024), gpu.threads // (32 * warps)
    vector = {  # 4 schedulers start an instruction a cycle each, and 16 exponents fit into one
        "instructions": turn["instructions"] * warps / 4,
        "exponents": count.get("special", 0) * warps * 32 / 16,
        "integers and comparisons": count.get("alu", 0) * warps * 32 / gpu.lanes[1],
        "multiply-adds": count.get("fma", 0) * warps * 32 / gpu.lanes[0],
    }
    matrix, l2 = flops / gpu.matrix, l2_bytes / (gpu.l2_gbs / gpu.ghz / gpu.sms)
    cycles = max(matrix + max(vector.values()) + TURN_CYCLES + (0 if row["prefetch"] else EXPOSED_CYCLES), l2)
    return Loop(cycles, {**vector, "matrix units": matrix, "L2 reads": l2}, max(1, min(fits)))


@cache
def compiled(kernel: str, arch: str, head_dim: int, config: str, variant: str) -> dict:
    """The row of a kernel in the results of compile_kernels.py.

    Raises:
        LookupError: there is none.
    """
    wanted = {"kernel": kernel, "target": arch, "head_dim": head_dim, "config": config, "variant": variant}
    for line in (RESULTS / "compiled.jsonl").read_text().splitlines():
        row = json.loads(line)
        if all(row[name] == value for name, value in wanted.items()):
            return row
    raise LookupError(f"results/compiled.jsonl has no {wanted}: add it with compile_kernels.py --configs {config}")


def makespan(work: list[float], slots: int) -> float:
    """When the last of these programs ends, taken in their order by slots that become free."""
    free = [0.0] * min(slots, len(work))
    for cycles in work:
        heapq.heappush(free, heapq.heappop(free) + cycles)
    return max(free)


def attention(gpu: Gpu, shape: Shape, config: TileConfig, lists: list[list[int]], clusters: int, together: int) -> list[Part]:
    """The executor's parts, over the lists of each head [heads][tiles], `together` heads a launch; a tail if `clusters`."""
    d, name = shape.head_dim, str(config)
    order = 2 if clusters else 0
    apart = order and config.tail_apart
    keys = compiled("gather_attention", gpu.arch, d, name, f"TAIL={0 if apart else order} KEYS" + " WITH_LSE" * bool(apart))
    flops = 4 * config.block_m * d
    turn = loop_of(keys, 0, gpu, flops * config.block_n, 4 * d * config.block_n)
    parts = [("attention", turn, [[-(-keys // config.block_n) for keys in head] for head in lists])]
    if order:
        row = compiled("gather_attention", gpu.arch, d, name, "TAIL=2 RESUME") if apart else keys
        tail = loop_of(row, -1, gpu, 1.5 * flops * config.tail_block_n, 6 * d * config.tail_block_n)
        parts.append(("tail", tail, [[-(-clusters // config.tail_block_n)] * len(head) for head in lists]))
    made = []
    for part, loop, turns in parts:
        slots, start = gpu.sms * loop.resident, PROGRAM_CYCLES if part == "attention" or apart else 0
        cycles = 0.0
        for first in range(0, len(turns), together):
            work = [n * loop.rate * loop.resident + start for head in turns[first : first + together] for n in head]
            cycles += makespan(work, slots)
        ideal = sum(map(sum, turns)) * loop.rate / gpu.sms
        limit = f"{loop.limit}, {loop.resident} a multiprocessor; {1 - ideal / cycles:.0%} starts, ends and waits"
        made.append(Part(part, gpu.ms(cycles), limit))
    if apart:
        moved = 2 * 2 * shape.heads * shape.tokens * d
        made.append(Part("tail", moved / gpu.memory_gbs / 1e6, "memory: out written and read once more"))
    return made


def planning(gpu: Gpu, shape: Shape, lists: list[list[int]], iterations: int, started: int) -> list[Part]:
    """SVG2's planning of a call in the middle of a run."""
    d, rows = shape.head_dim, shape.heads * shape.tokens
    config = config_for("assign", d, gpu.arch)
    row, flops = compiled("assign", gpu.arch, d, str(config), ""), 2 * config.block_m * config.block_n * d
    loop = loop_of(row, 0, gpu, flops, 2 * d * config.block_n)
    blocks = -(-shape.tokens // config.block_m) * shape.heads
    turns = sum(-(-clusters // config.block_n) for clusters in (shape.q_clusters, shape.k_clusters))
    assign = iterations * turns * blocks * loop.rate / gpu.sms

    def moved(name: str, size: float, what: str) -> Part:
        return Part(name, size / gpu.memory_gbs / 1e6, f"memory: {what}")

    return [
        Part("assign", gpu.ms(assign), loop.limit),
        moved("sort", 2 * iterations * rows * 2 * 2 * 10, "two passes over labels and their tokens"),
        moved("centroids", (2 * iterations + 2) * 2 * rows * d, "q, k, v and once more k for its spread"),
        moved("choice", 5 * 4 * shape.heads * len(lists[0]) * shape.k_clusters, "masses of tiles and clusters"),
        moved("lists", 2 * 4 * shape.heads / len(lists) * sum(map(sum, lists)), "tokens read and written"),
        Part("launches", LAUNCH_MS * started, f"{started} operations"),
    ]


def plan_lists(shape: Shape, config: SVGConfig | SVG2Config, block_m: int) -> list[list[int]]:
    """Keys of each tile by head, from the plan of a head or two of a synthetic scene."""
    use_tiles(block_m, block_m)
    few = Shape(**{**vars(shape), "heads": min(2, shape.heads)})
    q, k, v = inputs(few, "cpu", torch.float32)
    options = {"sm_scale": shape.head_dim**-0.5, "backend": "torch"}
    video = plans(q, k, v, config, layout_of(few), SparseState(), 0, **options)[-1]
    return video.key_count[video.list_of_head.flatten().long()].tolist()


def call(gpu: Gpu, shape: Shape, method: str, density: float, config: TileConfig, lists: list[list[int]]) -> list[Part]:
    """All parts of one call."""
    heads = [lists[head % len(lists)] for head in range(shape.heads)]
    started = launch_count(shape, method)
    if method == "svg":
        read = 4 * shape.heads * shape.tokens * shape.head_dim
        parts = attention(gpu, shape, config, heads, 0, shape.heads)
        return [
            Part("profiling", 2 * read / gpu.memory_gbs / 1e6, "memory: k and v for each pattern"),
            Part("launches", LAUNCH_MS * started, f"{started} operations"),
            *parts,
        ]
    together = max(1, WORKSPACE_BYTES // list_bytes(svg2_config(shape, density), layout_of(shape), config.block_m))
    made = planning(gpu, shape, lists, SVG2Config().kmeans_step_iters, started)
    return [*made, *attention(gpu, shape, config, heads, shape.k_clusters, together)]


@cache
def launch_count(shape: Shape, method: str) -> int:
    """Operations that a call starts."""
    config = SVGConfig() if method == "svg" else svg2_config(shape, 0.25)
    counted = launches.count(shape, config)
    return counted.torch.total() + counted.triton.total()


def svg2_config(shape: Shape, density: float) -> SVG2Config:
    """That share of the clusters for every tile, the most important ones."""
    clusters = {"q_clusters": shape.q_clusters, "k_clusters": shape.k_clusters, "kmeans_init_iters": 2}
    return SVG2Config(top_p=1e-3, min_keep=density, **clusters)


def measured(rows: list[dict], gpu: Gpu, shape: str, method: str, density: float) -> dict[str, float]:
    """Milliseconds in the committed results at about this density, the youngest: of the kernel alone, and of the call."""
    provider = {"svg": "svg-triton", "svg2": "svg2+tail-triton"}[method]
    names = {provider: "attention and tail", f"{provider}-call": "the call"}
    return {
        names[row["provider"]]: row["ms"]
        for row in rows
        if row["op"] == "attention" and gpu.device in row["device"] and row["shape"] == shape and "ms" in row
        if row["provider"] in names and abs(row["density"] - density) < 0.05
    }


def main() -> None:
    """A table a GPU and method: parts, their share of dense attention, and what limits them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="wan14b_720p")
    parser.add_argument("--density", type=float, default=0.25)
    parser.add_argument("--methods", nargs="+", choices=("svg", "svg2"), default=("svg", "svg2"))
    parser.add_argument("--gpus", nargs="+", choices=[gpu.device for gpu in GPUS], default=[gpu.device for gpu in GPUS])
    parser.add_argument("--configs", nargs="+", help="gather_attention's tile configs in place of the table's")
    arguments = parser.parse_args()
    shape, rows = SHAPES[arguments.shape], read(RESULTS)
    flops = 4 * shape.heads * shape.tokens**2 * shape.head_dim
    for method in arguments.methods:
        wanted = SVGConfig(sparsity=1 - arguments.density) if method == "svg" else svg2_config(shape, arguments.density)
        plan = cache(partial(plan_lists, shape, wanted))  # by rows of a tile
        for gpu in (gpu for gpu in GPUS if gpu.device in arguments.gpus):
            names = arguments.configs or [str(config_for("gather_attention", shape.head_dim, gpu.arch))]
            for config in map(TileConfig.parse, names):
                lists = plan(config.block_m)
                density = sum(map(sum, lists)) / len(lists) / len(lists[0]) / shape.tokens
                parts = call(gpu, shape, method, arguments.density, config, lists)
                print(f"\n### {method} at density {density:.2f}, {arguments.shape}, {gpu.name}, {config}: predicted\n")
                print(table(parts, flops, density, gpu, measured(rows, gpu, arguments.shape, method, density)))


def table(parts: list[Part], flops: float, density: float, gpu: Gpu, known: dict[str, float]) -> str:
    """Markdown: each part, then the whole, then what was measured of it."""
    dense = flops / gpu.dense_tflops / 1e9
    whole, kernel = sum(part.ms for part in parts), sum(part.ms for part in parts if part.name in ("attention", "tail"))
    lines = ["| part | ms | of dense | what limits |", "|---|---|---|---|"]
    lines += [f"| {part.name} | {part.ms:.1f} | {part.ms / dense:.1%} | {part.limit} |" for part in parts]
    said = f"{density * flops / kernel / 1e9:.0f} TFLOP/s in attention and tail"
    lines.append(f"| the call | {whole:.1f} | {whole / dense:.1%} | {dense / whole:.2f}x over {gpu.dense}; {said} |")
    lines.append(f"| dense | {dense:.1f} | | {gpu.dense} at {gpu.dense_tflops:.0f} TFLOP/s, its rate at head_dim 128 |")
    predicted = {"attention and tail": kernel, "the call": whole}
    for name, ms in known.items():
        lines.append(f"| {name}, measured | {ms:.1f} | {ms / dense:.1%} | predicted {predicted[name]:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
