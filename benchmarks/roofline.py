"""How long should a call take on a GPU that is not at hand, part by part, and what limits it?

A model of the time from counts alone: instructions and registers of the compiled kernels (results/compiled.jsonl), bytes
that move, the lists of a real plan and what the planner launches. Where results hold a measured time of the same
thing, it stands beside the predicted one.

SVG2's call holds cond and uncond, which share clusters and choice, and has one k-means iteration. What is shown is one
conditioning's half of it, beside one dense attention.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import torch
from calls import call_options, planned, svg2_config
from gpus import GPUS, PROGRAM_CYCLES, Gpu, Loop, loop_of, makespan
from measure import inputs, layout_of, use_tiles
from report import RESULTS, read, table
from shapes import CONDITIONINGS, SHAPES, Shape
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.kernels.quantise import quantised_bytes
from sparse_videogen.kernels.tile_configs import NoTileConfig, TileConfig, config_for
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


@dataclass(frozen=True)
class Tiles:
    """The executor's tile configs in one precision.

    Attributes:
        lists, tail: of the pass over the lists, and of the tail, which is in 16 bit.
        few: whether the lists' products are in few bits.
    """

    lists: TileConfig
    tail: TileConfig
    few: bool = False

    @classmethod
    def of(cls, head_dim: int, arch: str, precision: str) -> Tiles:
        """The table's.

        Raises:
            NoTileConfig: no kernel has this precision there.
        """
        own = config_for("gather_attention", head_dim, arch)
        return cls(config_for("gather_attention", head_dim, arch, precision), own, precision != PRECISIONS[0])

    @property
    def kinds(self) -> tuple[str, ...]:
        """Of the products, as `Gpu.matrix` names them: of queries with keys, of weights with values."""
        return ("int8" if self.few else "16 bit", self.lists.values or "16 bit")

    @property
    def values_bytes(self) -> int:
        """Of one number."""
        return self.lists.values_dtype.itemsize if self.lists.values else 2

    def key_bytes(self, head_dim: int) -> int:
        """Of a key and its value."""
        return head_dim * ((1 if self.few else 2) + self.values_bytes) + (8 if self.few else 0)


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


def attention(gpu: Gpu, shape: Shape, tiles: Tiles, lists: list[list[int]], clusters: int, together: int) -> list[Part]:
    """The executor's parts, over the lists of each head [heads][tiles], `together` heads a launch; a tail if `clusters`."""
    d, row_of = shape.head_dim, partial(compiled, "gather_attention", gpu.arch, shape.head_dim)
    order, config, own = 2 if clusters else 0, tiles.lists, tiles.tail
    apart = order and (own.tail_apart or tiles.few)
    few = " QUANTISED" if tiles.few else ""
    keys = row_of(str(config), f"TAIL=0 KEYS{few} WITH_LSE" if apart else f"TAIL={order} KEYS{few}")
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

    loop = loop_of(keys, 0, gpu, flops * config.block_n, tiles.key_bytes(d) * config.block_n, tiles.kinds)
    made = [part("attention", loop, [[-(-keys // config.block_n) for keys in head] for head in lists], PROGRAM_CYCLES)]
    if order:
        row = row_of(str(own), "TAIL=2 RESUME") if apart else keys
        loop = loop_of(row, -1, gpu, 1.5 * flops * own.tail_block_n, 6 * d * own.tail_block_n)
        turns = [[-(-clusters // own.tail_block_n)] * len(head) for head in lists]
        made.append(part("tail", loop, turns, PROGRAM_CYCLES if apart else 0))
    if apart:
        made.append(moved(gpu, "tail", 2 * 2 * shape.heads * shape.tokens * d, "out written and read once more"))
    return made


def quantising(gpu: Gpu, shape: Shape, tiles: Tiles) -> list[Part]:
    """Queries and keys read for their means and sizes, then once more and written; values likewise if they are."""
    if not tiles.few:
        return []
    values = 3 * 2 + tiles.values_bytes if tiles.lists.values else 0
    size = shape.heads * shape.tokens * (shape.head_dim * (2 * (2 + 2 + 1) + values) + 2 * 8)
    return [moved(gpu, "quantise", size, "q, k and v read for their means and sizes, and written in few bits")]


def moved(gpu: Gpu, name: str, size: float, what: str) -> Part:
    """What moves so many bytes."""
    return Part(name, size / gpu.memory_gbs / 1e6, f"memory: {what}")


@cache
def launched(shape: Shape, config: SVGConfig | SVG2Config, precision: str) -> Part:
    """What waits for its turn."""
    from launches import count  # puts Triton into its interpreter

    together = sharing(config)
    counts = count(shape, config, together, together, precision)
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


def call(gpu: Gpu, shape: Shape, config: SVGConfig | SVG2Config, tiles: Tiles, lists: list[list[int]]) -> list[Part]:
    """All parts of one call but its launches."""
    heads, few = [lists[head % len(lists)] for head in range(shape.heads)], quantising(gpu, shape, tiles)
    held = quantised_bytes(shape.tokens, shape.head_dim, tiles.lists.values_dtype) if tiles.few else 0
    if isinstance(config, SVGConfig):
        read_bytes = 2 * 4 * shape.heads * shape.tokens * shape.head_dim
        profiling = moved(gpu, "profiling", read_bytes, "k and v for each pattern")
        together = min(shape.heads, max(1, WORKSPACE_BYTES // held)) if held else shape.heads
        return [profiling, *few, *attention(gpu, shape, tiles, heads, 0, together)]
    planned_call = Call(config, layout_of(shape), shape.head_dim**-0.5, tiles.lists.block_m, "triton")
    together = max(1, WORKSPACE_BYTES // (list_bytes(planned_call) + sharing(config) * held))
    made = planning(gpu, shape, config, lists, tiles.lists.block_m)
    return [*made, *few, *attention(gpu, shape, tiles, heads, shape.k_clusters, together)]


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
    parser.add_argument("--configs", nargs="+", help="gather_attention's tile configs in place of the table's, in 16 bit")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS[:1])
    arguments = parser.parse_args()
    shape, rows = SHAPES[arguments.shape], read(RESULTS)
    flops = 4 * shape.heads * shape.tokens**2 * shape.head_dim
    svg2 = svg2_config(shape, arguments.density)
    configs = {"svg": SVGConfig(sparsity=1 - arguments.density), "svg2": svg2}
    summary = []
    for method in arguments.methods:
        plan = cache(partial(plan_lists, shape, configs[method]))
        for gpu in (gpu for gpu in GPUS if gpu.device in arguments.gpus):
            for precision, tiles in _tiles(arguments, gpu, shape):
                lists = plan(tiles.lists.block_m)
                density = sum(map(sum, lists)) / len(lists) / len(lists[0]) / shape.tokens
                parts = [launched(shape, configs[method], precision), *call(gpu, shape, configs[method], tiles, lists)]
                title = (
                    f"{method} at density {density:.2f}, {arguments.shape}, {gpu.name}, {tiles.lists}, {precision}: predicted"
                )
                known = measured(rows, gpu, arguments.shape, method, density) if precision == PRECISIONS[0] else {}
                print("\n".join(lines_of(title, parts, flops, density, gpu, known)))
                summary.append(compared(f"{method}, {precision}", gpu, sum(part.ms for part in parts), flops, density))
    header = "GPU | call | density | ms | TFLOP/s of a dense call that takes as long | over FlashAttention | over SageAttention"
    print("\n".join(table("Calls", header, "gpu call density:.2f ms:.0f rate:.0f dense:.1f sage:.1f", summary)))


def _tiles(arguments: argparse.Namespace, gpu: Gpu, shape: Shape) -> Iterator[tuple[str, Tiles]]:
    """Precisions that this GPU has, with their tiles; or the configs asked for."""
    if arguments.configs:
        yield from ((PRECISIONS[0], Tiles(tile, tile)) for tile in map(TileConfig.parse, arguments.configs))
        return
    for precision in arguments.precisions:
        try:
            yield precision, Tiles.of(shape.head_dim, gpu.arch, precision)
        except NoTileConfig:
            print(f"{gpu.name} has no {precision}\n")


def compared(name: str, gpu: Gpu, ms: float, flops: float, density: float) -> dict:
    """A call beside dense attention, and beside SageAttention as its authors report it."""
    rate = flops / ms / 1e9
    times = {"dense": rate / gpu.dense_tflops, "sage": rate / gpu.sage_tflops}
    return {"gpu": gpu.name, "call": name, "density": density, "ms": ms, "rate": rate, **times}


if __name__ == "__main__":
    main()
