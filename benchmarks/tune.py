"""Which tile config is fastest on the GPU at hand? Writes the winners into kernels/tile_configs.json."""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import statistics
from dataclasses import replace

import torch
from measure import inputs, layout_of
from shapes import Shape
from sparse_videogen.kernels import backend, tile_configs
from sparse_videogen.kernels.assign import assign
from sparse_videogen.kernels.gather_attention import gather_attention
from sparse_videogen.kernels.sample_rows import sample_rows
from sparse_videogen.kernels.tile_configs import TABLE, architecture
from sparse_videogen.svg_core import SparseState, SVG2Config, svg2
from sparse_videogen.svg_core.kmeans import initial_centroids
from sparse_videogen.svg_core.sampling import stratified

CONFIG_FOR = tile_configs.config_for
KNOBS = ("block_m", "block_n", "num_warps", "num_stages")
GRID = {
    "gather_attention": list(itertools.product((128, 256, 64), (64, 128, 32), (8, 4, 16), (3, 2, 4))),
    "assign": list(itertools.product((128, 256, 64), (64, 128, 32), (4, 8), (3, 2, 4))),
    "sample_rows": list(itertools.product((64,), (64, 32, 128), (4, 8), (3, 2, 4))),
}


def workload(op: str, head_dim: int, block_m: int):
    """A function that runs `op` on a shape long enough to fill the GPU, with plans for tiles of `block_m` rows."""
    shape = Shape(8, head_dim, 21, 30, 52, q_clusters=200)
    q, k, v = inputs(shape, "cuda", torch.bfloat16)
    scale = head_dim**-0.5
    if op == "assign":
        centroids = initial_centroids(k, shape.k_clusters)
        return lambda: assign(k, centroids, backend="triton")
    if op == "sample_rows":
        rows = stratified(64, shape.tokens, q.device)
        return lambda: sample_rows(q, k, v, rows, sm_scale=scale, backend="triton")
    config = SVG2Config(top_p=1e-3, min_keep=0.25, q_clusters=shape.q_clusters, kmeans_init_iters=4)
    options = {"sm_scale": scale, "block_m": block_m, "backend": "torch", "workspace_bytes": 1 << 30}
    plans = list(svg2.plan(q, k, v, config, layout_of(shape), SparseState(), 0, **options))

    def run():
        for heads, plan in plans:
            gather_attention(q[:, heads], k[:, heads], v[:, heads], plan, sm_scale=scale, backend="triton")

    return run


def milliseconds(function, repeats: int = 5) -> float:
    """Median of `repeats` runs after one to warm up."""
    function()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def best(op: str, head_dim: int, limit: int | None) -> dict:
    """The fastest config of `op`, as the table holds it; those that do not compile or fit are printed and passed over."""
    made, found = functools.cache(lambda block_m: workload(op, head_dim, block_m)), {}
    base = CONFIG_FOR(op, head_dim, architecture(torch.device("cuda")))
    for values in GRID[op][:limit]:
        config = replace(base, **dict(zip(KNOBS, values, strict=True)))
        tile_configs.config_for = lambda *key, config=config: config
        try:
            backend._failures.clear()
            ms = milliseconds(made(config.block_m if op == "gather_attention" else 128))
            if backend.failures():
                raise RuntimeError(next(iter(backend.failures().values())))
        except RuntimeError as error:
            print(f"{op} {head_dim} {values}: {str(error).splitlines()[0][:100]}", flush=True)
            continue
        found[config] = ms
        print(f"{op} {head_dim} {values}: {ms:.3f} ms", flush=True)
    return {name: value for name, value in vars(min(found, key=found.get)).items() if value is not None}


def dumps(table: dict) -> str:
    """The table as JSON, one config a line."""
    ops = []
    for op, by_arch in table.items():
        entries = []
        for arch, configs in by_arch.items():
            lines = ",\n".join(f"      {json.dumps(key)}: {json.dumps(config)}" for key, config in configs.items())
            entries.append(f"    {json.dumps(arch)}: {{\n{lines}\n    }}")
        ops.append(f"  {json.dumps(op)}: {{\n" + ",\n".join(entries) + "\n  }")
    return "{\n" + ",\n".join(ops) + "\n}\n"


def main() -> None:
    """Tunes every op that has a table, for both head_dims, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", nargs="+", default=list(GRID), choices=GRID)
    parser.add_argument("--limit", type=int, default=None, help="configs to try per op and head_dim")
    arguments = parser.parse_args()
    arch = architecture(torch.device("cuda"))
    table = json.loads(TABLE.read_text())
    for op in arguments.ops:
        entry = dict(table[op].get(arch, table[op]["default"]))
        for head_dim in (64, 128):
            entry[str(head_dim)] = best(op, head_dim, arguments.limit)
        table[op][arch] = entry
        TABLE.write_text(dumps(table))
    print(f"written for {arch}: {TABLE}")


if __name__ == "__main__":
    main()
