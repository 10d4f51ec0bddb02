"""Which tile config is fastest on the GPU at hand? Writes the winners into kernels/tile_configs.json.

Each config is first compiled, run and checked at a small size in a process of its own, all CPU cores at work: Triton
keeps what it compiled on disk, and no size is part of a kernel's identity (tests/kernels/test_signatures.py), so the
process that takes the times finds it there ("first_ms" of a row tells). One that fails is a row with the reason.

Tiles of more rows are faster at equal density and need a higher one for equal quality, since the rows of a tile choose
their keys together. So all configs of gather_attention run plans of one selection, by the same top_p (a density would give
tall tiles fewer pairs than they need), each with tiles of its own height: what a tall tile reads beyond a low one's counts
in its time. That top_p is the one that gives tiles of 128 rows the density asked for. The winner has the lowest sum of
times without and with the tail.

Configs are named as TileConfig.parse reads them, 128x64w8s5t32d128a; what stands for the tail may be left out, and is the
table's then. Rows are appended as they are made, and the table is written after each kernel.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from calls import TOLERANCE, PlannedCall, WrongResult, backend_of, require_kernels, svg2_config
from device import attempt, interleaved
from measure import inputs, out_of_time, parse_arguments, run
from shapes import Shape
from sparse_videogen.kernels import backend, tile_configs
from sparse_videogen.kernels.assign import assign
from sparse_videogen.kernels.score import score
from sparse_videogen.kernels.tile_configs import TABLE, TileConfig, architecture
from sparse_videogen.svg_core.clusters import initial_centroids
from sparse_videogen.svg_core.tiles import split_into_tiles

CONFIG_FOR = tile_configs.config_for
# The table's own config comes first, then these.
CONFIGS = {
    "gather_attention": (
        *("128x64w8s5t32d128", "128x128w8s5t32d128", "128x32w8s5t32d128a", "128x32w8s7t32d128a", "128x64w8s5t32d128a"),
        *("128x128w8s5t32d128a", "128x64w8s7t32d128", "128x64w8s3t32d128", "64x64w4s5t32d128a", "64x32w4s5t32d128a"),
        *("64x128w4s5t32d128a", "128x64w4s5t32d64a"),
    ),
    "assign": ("128x64w8s3", "128x128w8s3", "128x64w4s4", "128x32w4s4", "256x64w8s3", "64x64w4s3"),
    "score": ("128x64w8s3", "128x32w8s3", "128x32w4s3", "128x16w8s3", "64x64w4s3", "64x32w4s3"),
}
CASES = {"gather_attention": ("off", "second_order"), "assign": ("",), "score": ("",)}
SCORED_TILE = (128, 2)  # rows, of which every second one is scored
SMALL = {"heads": 2, "frames": 4, "height": 12, "width": 16, "q_clusters": 16, "k_clusters": 40}
MOST_COMPILE_SECONDS = 300
COLUMNS = ("kernel", "shape", "config", "tail", "density", "computed", "first_ms", "ms", "ms_p80", "tflops")


def parse_config(name: str, base: TileConfig) -> TileConfig:
    """The config of a name such as 128x64w8s5, with the tail of `base` where the name says nothing of it."""
    config = TileConfig.parse(name)
    if config.tail_block_n is None:
        return replace(config, tail_block_n=base.tail_block_n, spread_d=base.spread_d, tail_apart=base.tail_apart)
    return config


def use(op: str, config: TileConfig) -> None:
    """From now on `op` runs with this config, and failures of earlier ones are forgotten."""
    tile_configs.config_for = lambda asked, *key: config if asked == op else CONFIG_FOR(asked, *key)
    backend._failures.clear()


def plan_at(q, k, v, shape: Shape, top_p: float, tail: str) -> PlannedCall:
    """A call whose plans have tiles of the config in use."""
    by_mass = {"choose_by": "top_p", "top_p": top_p, "min_keep": 0.0}
    return PlannedCall.of(q, k, v, svg2_config(shape, kmeans_init_iters=4, tail=tail, **by_mass), shape)


def top_p_for(density: float, q, k, v, shape: Shape, base: TileConfig) -> float:
    """The top_p at which tiles of 128 rows have this density."""
    use("gather_attention", replace(base, block_m=128))
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        below = plan_at(q, k, v, shape, middle, "off").density() < density
        low, high = (middle, high) if below else (low, middle)
    return high


def assign_work(k, shape: Shape) -> Callable:
    """One assignment of the keys, checked on a few tokens; centroids rounded alike, near ties may differ."""
    centroids = initial_centroids(k, min(shape.k_clusters, shape.tokens)).contiguous()
    run = partial(assign, k, centroids, backend=backend_of(k))
    same = (run()[:, :, :500] == assign(k[:, :, :500], centroids, backend="torch")).float().mean().item()
    require_kernels()
    if same < 0.99:
        raise WrongResult(f"{1 - same:.1%} of the labels differ, allowed is 1 %")
    return run


def score_work(q, k, shape: Shape) -> Callable:
    """The scores of a call with the second-order tail, checked on a few tiles."""
    rows_of_tile, every = SCORED_TILE
    rows = split_into_tiles(torch.arange(shape.tokens, dtype=torch.int32, device=q.device), rows_of_tile)[:, ::every]
    k_mean = initial_centroids(k, min(shape.k_clusters, shape.tokens)).float()
    log_size = torch.full(k_mean.shape[:3], 4.0, device=q.device)
    terms = (k_mean, torch.rand_like(k_mean), log_size, torch.ones_like(log_size))
    rows = rows.expand(*q.shape[:2], -1, -1)
    given = {"sm_scale": shape.head_dim**-0.5}
    run = partial(score, q, rows, *terms, **given, backend=backend_of(q))
    found, expected = run()[:, :, :4], score(q, rows[:, :, :4], *terms, **given, backend="torch")
    require_kernels()
    off = ((found - expected).norm() / expected.norm()).item()
    if not off < TOLERANCE:
        raise WrongResult(f"scores are off by {off:.3g}, allowed are {TOLERANCE}")
    return run


def work(op: str, q, k, v, shape: Shape, plan: Callable[[], PlannedCall]) -> tuple[Callable, dict]:
    """What is timed, checked once, and what its row says of it; the plan is gather_attention's."""
    if op == "assign":
        return assign_work(k, shape), {}
    if op == "score":
        return score_work(q, k, shape), {}
    call = plan()
    call.check()
    return call.run, {"density": call.density(), "computed": call.computed()}


def run_small(op: str, head_dim: int, config: TileConfig, device: str) -> None:
    """Compiles, runs and checks a config at a small size."""
    shape = Shape(head_dim=head_dim, **SMALL)
    q, k, v = inputs(shape, device, torch.bfloat16)
    use(op, config)
    for tail in CASES[op]:
        work(op, q, k, v, shape, partial(plan_at, q, k, v, shape, 0.7, tail))


def compile_all(op: str, head_dim: int, configs: list[TileConfig], arguments) -> dict[TileConfig, dict]:
    """Fills Triton's cache with all cores, for at most half of the time left; what is missing of configs that fail."""
    end = time.monotonic() + min(MOST_COMPILE_SECONDS, (arguments.end - time.monotonic()) / 2)
    # A process for each: one whose kernel broke its GPU context, or that died, spoils no other.
    with multiprocessing.get_context("spawn").Pool(min(len(configs), os.cpu_count()), maxtasksperchild=1) as pool:
        given = {config: pool.apply_async(attempt, (run_small, op, head_dim, config, arguments.device)) for config in configs}
        return {config: why for config, result in given.items() if (why := _answer(result, end - time.monotonic()))}


def _answer(result, seconds: float) -> dict | None:
    try:
        return result.get(max(0.0, seconds))
    except multiprocessing.TimeoutError:
        return {"missing": "neither compiled nor failed in time"}


def timed(op: str, q, k, v, shape: Shape, plan: Callable[[], PlannedCall], repeats: int) -> dict:
    """What a row says of the config in use."""
    begin = time.perf_counter()
    run, row = work(op, q, k, v, shape, plan)
    row["first_ms"] = 1e3 * (time.perf_counter() - begin)
    row |= interleaved({"": run}, q.device, repeats)[""]
    require_kernels()
    if "ms" in row and "density" in row:
        row["tflops"] = 4 * shape.heads * shape.head_dim * shape.tokens**2 * row["density"] / row["ms"] / 1e9
    return row


def times_of(op: str, configs: list[TileConfig], q, k, v, shape: Shape, arguments) -> Iterator[dict]:
    """A row a config and case until the time is over."""
    top_p = top_p_for(arguments.densities[0], q, k, v, shape, configs[0]) if op == "gather_attention" else None
    plan_of = cache(lambda block_m, tail: plan_at(q, k, v, shape, top_p, tail))
    for config, tail in itertools.product(configs, CASES[op]):
        if out_of_time(arguments):
            return
        use(op, config)
        plan = partial(plan_of, config.block_m, tail)
        row = attempt(timed, op, q, k, v, shape, plan, arguments.repeats)
        yield {"config": str(config), "tail": tail, "top_p": top_p, **row}


def dumps(table: dict) -> str:
    """The table as JSON, one config a line."""
    return re.sub("{[^{}]*block_m[^{}]*}", lambda config: json.dumps(json.loads(config[0])), json.dumps(table, indent=2)) + "\n"


def write_best(file: Path, op: str, arch: str, head_dim: int, rows: list[dict]) -> str:
    """Writes the config of the lowest sum of times, if any ran in all cases; a line that says so."""
    times = defaultdict(list)
    for row in rows:
        if "ms" in row:
            times[row["config"]].append(row["ms"])
    complete = {config: sum(each) for config, each in times.items() if len(each) == len(CASES[op])}
    if not complete:
        return f"{op} {head_dim}: no config ran in all cases; {file} is as it was"
    best = min(complete, key=complete.get)
    table = json.loads(file.read_text())
    entry = dict(table[op].get(arch, table[op]["default"]))
    knobs = {name: value for name, value in vars(TileConfig.parse(best)).items() if value}
    needs = {name: value for name, value in (entry.get(str(head_dim)) or {}).items() if name == "min_triton"}
    entry[str(head_dim)] = knobs | needs
    table[op][arch] = entry
    file.write_text(dumps(table))
    return f"{op} {head_dim}: {best} is the best of {len(complete)}, written for {arch} into {file}"


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a kernel, config and case; the table is written after each kernel."""
    arch = architecture(torch.device(arguments.device))
    q, k, v = inputs(shape, arguments.device, torch.bfloat16)
    for op in arguments.kernels:
        tile_configs.config_for = CONFIG_FOR
        base = CONFIG_FOR(op, shape.head_dim, arch)
        named = (parse_config(config, base) for config in arguments.configs or CONFIGS[op])
        configs = list(dict.fromkeys([base, *named]))
        broken = compile_all(op, shape.head_dim, configs, arguments)
        usable = [config for config in configs if config not in broken]
        rows = ({"config": str(config), **missing} for config, missing in broken.items())
        found = []
        for row in itertools.chain(rows, times_of(op, usable, q, k, v, shape, arguments) if usable else ()):
            found.append(row)
            yield {"kernel": op, "heads": shape.heads, "head_dim": shape.head_dim, **row}
        if usable:
            print(write_best(arguments.table, op, arch, shape.head_dim, found), flush=True)


if __name__ == "__main__":
    defaults = {"shapes": ["wan14b_720p"], "densities": [0.25], "heads": 8}
    kernels = {"nargs": "+", "default": list(CONFIGS), "choices": CONFIGS}
    configs = {"nargs": "+", "help": "instead of each kernel's own list"}
    table = {"type": Path, "default": TABLE, "help": "the file to write the winners into"}
    arguments = parse_arguments(__doc__, defaults, kernels=kernels, configs=configs, table=table)
    run("tune", COLUMNS, rows_of, arguments)
