"""How long should a call take on a GPU that is not at hand, part by part, and what limits it?

A model of the time from counts alone: instructions and registers of the compiled kernels (results/compiled.jsonl), bytes
that move, the lists of a real plan and what the planner launches. Where results hold a measured time of the same
thing, it stands beside the predicted one.

SVG2's call holds cond and uncond, which share clusters and choice, and has one k-means iteration. What is shown is one
conditioning's half of it, beside one dense attention.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from calls import call_options, planned, svg2_config
from gpus import GPUS, PROGRAM_CYCLES, Gpu, Loop, loop_of, makespan
from measure import inputs, layout_of, use_tiles
from report import RESULTS, read, table
from shapes import CONDITIONINGS, SHAPES, Shape
from sparse_videogen.kernels.tile_configs import TileConfig, config_for
from sparse_videogen.svg_core import WORKSPACE_BYTES, Call, SVG2Config, SVGConfig
from sparse_videogen.svg_core.svg2 import list_bytes

# Of budget: the exponent of a threshold and seven bits of its fraction, two halvings a trip through a head's scores.
TRIPS = 8
SUMS = {  # parts of SVG2's planning that are shown together
    "attention and tail": ("attention", "tail"),
    "scoring and tail": ("score", "tail"),
    "planning": ("launches", "assign", "sort", "centroids", "tiles", "budget", "lists"),
}
LAUNCH_MS = 5e-3  # from one small operation's start to the next's


@dataclass(frozen=True)
class Part:
    """A part of a call: milliseconds, and what they are spent on."""

    name: str
    ms: float
    limit: str


@cache
def compiled(kernel: str, arch: str, head_dim: int, config: str, variant: str) -> dict:
    """The row of a kernel in the results of compile_kernels.py.

    Raises:
        LookupError: there is none.
    """
    wanted = {"kernel": kernel, "target": arch, "head_dim": head_dim, "config": config, "variant": variant}
    for row in read(RESULTS):
        if row["op"] == "compiled" and wanted.items() <= row.items():
            return row
    raise LookupError(f"results/compiled.jsonl has no {wanted}: add it with compile_kernels.py --configs {config}")


def attention(gpu: Gpu, shape: Shape, config: TileConfig, lists: list[list[int]], clusters: int, together: int) -> list[Part]:
    """The executor's parts, over the lists of each head [heads][tiles], `together` heads a launch; a tail if `clusters`."""
    d, row_of = shape.head_dim, partial(compiled, "gather_attention", gpu.arch, shape.head_dim, str(config))
    order = 2 if clusters else 0
    apart = order and config.tail_apart
    keys = row_of("TAIL=0 KEYS WITH_LSE" if apart else f"TAIL={order} KEYS")
    flops = 4 * config.block_m * d

    def part(name: str, loop: Loop, turns: list[list[int]], start: float) -> Part:
        """Of heads whose tiles take so many turns, [heads][tiles], and cycles to start a program."""
        cycles = 0.0
        for first in range(0, len(turns), together):
            work = [n * loop.rate * loop.resident + start for head in turns[first : first + together] for n in head]
            cycles += makespan(work, gpu.sms * loop.resident)
        ideal = sum(map(sum, turns)) * loop.rate / gpu.sms
        limit = f"{loop.limit}, {loop.resident} a multiprocessor; {1 - ideal / cycles:.0%} starts, ends and waits"
        return Part(name, gpu.ms(cycles), limit)

    loop = loop_of(keys, 0, gpu, flops * config.block_n, 4 * d * config.block_n)
    made = [part("attention", loop, [[-(-keys // config.block_n) for keys in head] for head in lists], PROGRAM_CYCLES)]
    if order:
        row = row_of("TAIL=2 RESUME") if apart else keys
        loop = loop_of(row, -1, gpu, 1.5 * flops * config.tail_block_n, 6 * d * config.tail_block_n)
        turns = [[-(-clusters // config.tail_block_n)] * len(head) for head in lists]
        made.append(part("tail", loop, turns, PROGRAM_CYCLES if apart else 0))
    if apart:
        made.append(moved(gpu, "tail", 2 * 2 * shape.heads * shape.tokens * d, "out written and read once more"))
    return made


def moved(gpu: Gpu, name: str, size: float, what: str) -> Part:
    """What moves so many bytes."""
    return Part(name, size / gpu.memory_gbs / 1e6, f"memory: {what}")


def launched(shape: Shape, config: SVGConfig | SVG2Config) -> Part:
    """What waits for its turn."""
    from launches import count  # puts Triton into its interpreter

    together = sharing(config)
    counts = count(shape, config, together, together)
    started = counts.torch.total() + counts.triton.total()
    return Part("launches", LAUNCH_MS * started / together, f"{started} operations of {together}")


def sharing(config: SVGConfig | SVG2Config) -> int:
    """Conditionings that have one plan."""
    return CONDITIONINGS if isinstance(config, SVG2Config) else 1


def scoring(gpu: Gpu, shape: Shape, tiles: int, block_m: int, score_every: int) -> Part:
    """The score of all clusters for all tiles of `block_m` rows: twice two products with each cluster."""
    d, config = shape.head_dim, config_for("score", shape.head_dim, gpu.arch)
    rows = block_m // score_every
    programs = -(-tiles * rows // config.block_m) * shape.heads
    turns, flops = programs * -(-shape.k_clusters // config.block_n), 4 * config.block_m * config.block_n * d
    # How many rows a tile has changes little of a loop.
    row = compiled("score", gpu.arch, d, str(config), f"HAS_VARIANCE ROWS={config.block_m // 2}")
    passes = [loop_of(row, number, gpu, flops, 4 * d * config.block_n) for number in (0, 1)]
    limits = " and ".join(dict.fromkeys(loop.limit for loop in passes))
    limit = f"{limits}, {passes[0].resident} a multiprocessor"
    return Part("score", gpu.ms(sum(turns * loop.rate for loop in passes) / gpu.sms), limit)


def planning(gpu: Gpu, shape: Shape, config: SVG2Config, lists: list[list[int]], block_m: int) -> list[Part]:
    """SVG2's planning of one conditioning in the middle of a run, but for its launches: what is shared counts in part."""
    d, rows, iterations, tiles = shape.head_dim, shape.heads * shape.tokens, config.kmeans_step_iters, len(lists[0])
    own, part = 1.0, 1 / sharing(config)
    knobs = config_for("assign", d, gpu.arch)
    row, flops = compiled("assign", gpu.arch, d, str(knobs), ""), 2 * knobs.block_m * knobs.block_n * d
    loop = loop_of(row, 0, gpu, flops, 2 * d * knobs.block_n)
    blocks = -(-shape.tokens // knobs.block_m) * shape.heads
    turns = sum(-(-clusters // knobs.block_n) for clusters in (shape.q_clusters, shape.k_clusters))
    # Of q and k; of the keys of the other conditionings, their spread and that of v; of v.
    reads = part * 2 * iterations + (own - part) + 3 * own
    scores = 4 * shape.heads * tiles * shape.k_clusters
    # A program a head, whose multiprocessor has its share of what L2 gives.
    trips_ms = TRIPS * scores / shape.heads * -(-shape.heads // gpu.sms) / (gpu.l2_gbs / gpu.sms) / 1e6
    return [
        Part("assign", part * gpu.ms(iterations * turns * blocks * loop.rate / gpu.sms), loop.limit),
        moved(gpu, "sort", part * (2 * iterations + 1) * rows * 2 * 2 * 10, "two passes over labels or bins and their tokens"),
        moved(gpu, "centroids", reads * 2 * rows * d, "q, k, v and once more k and v for their spread"),
        moved(gpu, "tiles", part * rows * (2 * d + 4 * 4), "q for its bins, and rows"),
        scoring(gpu, shape, tiles, block_m, config.score_every),
        moved(gpu, "score", (2 * own + part) * scores, "scores written, and those of the other conditionings added"),
        Part("budget", part * trips_ms, f"one multiprocessor a head reads its scores {TRIPS} times"),
        moved(gpu, "budget", part * 1.25 * scores, "scores once more, and what is kept"),
        moved(gpu, "lists", part * 2 * 4 * shape.heads / len(lists) * sum(map(sum, lists)), "tokens read and written"),
    ]


def plan_lists(shape: Shape, config: SVGConfig | SVG2Config, block_m: int) -> list[list[int]]:
    """Keys of each tile by head, from the plan of a head or two of a synthetic scene."""
    use_tiles(block_m, block_m)
    few = replace(shape, heads=min(2, shape.heads))
    video = planned(*inputs(few, "cpu", torch.float32), call_options(config, few))[-1]  # of one conditioning: as long
    return video.key_count[video.list_of_head.flatten().long()].tolist()


def call(gpu: Gpu, shape: Shape, config: SVGConfig | SVG2Config, tile: TileConfig, lists: list[list[int]]) -> list[Part]:
    """All parts of one call but its launches."""
    heads = [lists[head % len(lists)] for head in range(shape.heads)]
    if isinstance(config, SVGConfig):
        read_bytes = 2 * 4 * shape.heads * shape.tokens * shape.head_dim
        profiling = moved(gpu, "profiling", read_bytes, "k and v for each pattern")
        return [profiling, *attention(gpu, shape, tile, heads, 0, shape.heads)]
    planned_call = Call(config, layout_of(shape), shape.head_dim**-0.5, tile.block_m, "triton")
    together = max(1, WORKSPACE_BYTES // list_bytes(planned_call))
    made = planning(gpu, shape, config, lists, tile.block_m)
    return [*made, *attention(gpu, shape, tile, heads, shape.k_clusters, together)]


def measured(rows: list[dict], gpu: Gpu, shape: str, method: str, density: float) -> dict[str, float]:
    """Milliseconds in the committed results at about this density, the youngest: of the kernel alone, and of the call.

    SVG2's calls are measured with one conditioning, which has a plan of its own, so they are not what is predicted.
    """
    names = {"svg-triton": "attention and tail", "svg-triton-call": "the call"}
    if method == "svg2":
        names = {"svg2+tail-triton": "attention and tail"}
    return {
        names[row["provider"]]: row["ms"]
        for row in rows
        if row["op"] == "attention" and gpu.device in row["device"] and row["shape"] == shape and "ms" in row
        if row["provider"] in names and abs(row["density"] - density) < 0.05
    }


def lines_of(title: str, parts: list[Part], flops: float, density: float, gpu: Gpu, known: dict[str, float]) -> list[str]:
    """A table: each part, then the whole, then what was measured of it."""
    dense_ms = flops / gpu.dense_tflops / 1e9
    predicted = {name: sum(part.ms for part in parts if part.name in names) for name, names in SUMS.items()}
    predicted["the call"] = sum(part.ms for part in parts)
    rate = f"{density * flops / predicted['attention and tail'] / 1e9:.0f} TFLOP/s in attention and tail"
    whole = Part("the call", predicted["the call"], f"{dense_ms / predicted['the call']:.2f}x over {gpu.dense}; {rate}")
    found = [Part(f"{name}, measured", ms, f"predicted {predicted[name]:.1f}") for name, ms in known.items()]
    sums = [Part(name, predicted[name], ", ".join(SUMS[name])) for name in ("planning", "scoring and tail")]
    sums = sums if any(part.name == "score" for part in parts) else []
    rows = [vars(part) | {"share": part.ms / dense_ms} for part in (*parts, *sums, whole, *found)]
    dense = {"name": "dense", "ms": dense_ms, "limit": f"{gpu.dense} at {gpu.dense_tflops} TFLOP/s, its rate at head_dim 128"}
    return table(title, "part | ms | of dense | what limits", "name ms:.1f share:.1% limit", [*rows, dense])


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
    svg2 = svg2_config(shape, arguments.density)
    configs = {"svg": SVGConfig(sparsity=1 - arguments.density), "svg2": svg2}
    for method in arguments.methods:
        launches, plan = launched(shape, configs[method]), cache(partial(plan_lists, shape, configs[method]))
        for gpu in (gpu for gpu in GPUS if gpu.device in arguments.gpus):
            names = arguments.configs or [str(config_for("gather_attention", shape.head_dim, gpu.arch))]
            for tile in map(TileConfig.parse, names):
                lists = plan(tile.block_m)
                density = sum(map(sum, lists)) / len(lists) / len(lists[0]) / shape.tokens
                parts = [launches, *call(gpu, shape, configs[method], tile, lists)]
                title = f"{method} at density {density:.2f}, {arguments.shape}, {gpu.name}, {tile}: predicted"
                known = measured(rows, gpu, arguments.shape, method, density)
                print("\n".join(lines_of(title, parts, flops, density, gpu, known)))


if __name__ == "__main__":
    main()
