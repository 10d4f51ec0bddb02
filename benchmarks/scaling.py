"""What do 2, 4 and 8 GPUs gain that share the heads of each call (Ulysses), by the model of the time in roofline.py?

Three tables: the time of a step, with what moves between the GPUs; the memory of each; and how evenly work is spread. Assumed:
each GPU computes its share of the heads and of the tokens; q, k, v and the output of every call are exchanged, and nothing
is computed meanwhile; all else in the model is products with its weights, at the rate of dense attention.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

from calls import svg2_config
from gpus import GPUS, Gpu
from memory import estimated
from report import table
from roofline import Tiles, call, launched, plan_lists
from shapes import CONDITIONINGS, SHAPES
from sparse_videogen.kernels import PRECISIONS

DATA = Path(__file__).parent / "data" / "attention_density"
COUNTS = (1, 2, 4, 8)
BALANCED = {"two": 2, "four": 4, "eight": 8}  # columns
# Part of a GPU's name -> what it reaches others by, and GB/s one way that a copy between two may take: 0.8 of the makers' 450
# and 300 of NVLink and, since GeForce cards copy through the host's memory, a third of the 64 and 32 of PCIe 5 and 4.
LINKS = {
    "H100": ("NVLink 4", 360),
    "A100": ("NVLink 3", 240),
    "5090": ("PCIe 5", 21),
    "4090": ("PCIe 4", 10),
}
WEIGHTS = {"wan14b_720p": 14.0e9, "wan14b_480p": 14.0e9, "hunyuan_720p": 12.8e9}  # that a token meets in a pass
# Of balance: what a head costs at the least, as a density: the method's min_keep, and planning, tail and lists.
LEAST, FIXED = 0.10, 0.05


def step_ms(gpu: Gpu, name: str, density: float, gpus: int, lists) -> dict[str, float]:
    """Milliseconds of a step of both conditionings on each GPU, by part."""
    whole = SHAPES[name]
    shape, precision = replace(whole, heads=-(-whole.heads // gpus)), PRECISIONS[0]
    config, tiles = svg2_config(whole, density), Tiles.of(whole.head_dim, gpu.arch, precision)
    parts = [launched(shape, config, precision), *call(gpu, shape, config, tiles, lists(tiles.lists.block_m))]
    calls = CONDITIONINGS * whole.layers
    away = 4 * 2 * whole.heads * whole.tokens * whole.head_dim / gpus * (gpus - 1) / gpus  # bytes that leave a GPU a call
    flops = CONDITIONINGS * 2 * WEIGHTS[name] * whole.tokens / gpus
    return {
        "attention": calls * sum(part.ms for part in parts),
        "exchange": calls * away / LINKS[gpu.device][1] / 1e6,
        "rest": flops / gpu.dense_tflops / 1e9,
    }


def speed_rows(name: str, density: float) -> Iterator[dict]:
    """A row a GPU and count."""
    lists = cache(partial(plan_lists, SHAPES[name], svg2_config(SHAPES[name], density)))
    for gpu in (gpu for gpu in GPUS if gpu.device in LINKS):
        one = None
        for gpus in COUNTS:
            parts = step_ms(gpu, name, density, gpus, lists)
            total = sum(parts.values())
            one = one or total
            yield {"gpu": gpu.name, "link": LINKS[gpu.device][0], "gpus": gpus, **parts, "step": total, "gain": one / total}


def memory_rows(name: str, density: float) -> Iterator[dict]:
    """A row a count: what the nodes tell the host, of SVG2 with both conditionings in one batch."""
    for gpus in COUNTS:
        shape = replace(SHAPES[name], heads=-(-SHAPES[name].heads // gpus))
        config = svg2_config(SHAPES[name], density)
        both = estimated(shape, config, CONDITIONINGS, CONDITIONINGS)["estimated_bytes"]
        yield {"gpus": gpus, "call_bytes": both, "state_bytes": estimated(shape, config)["state_bytes"]}


def balance_rows() -> Iterator[dict]:
    """A row a model: the slowest GPU's attention over the mean, in the middle of a run, with one top_p for all heads."""
    for path in sorted(DATA.glob("*.csv")):
        with open(path) as file:
            rows = list(csv.DictReader(file))
        layers: dict[int, list[float]] = {}
        for row in rows:
            layers.setdefault(int(row["layer"]), []).append(max(float(row["mid_step"]), LEAST) + FIXED)
        heads = len(layers[0])
        row = {"model": path.stem, "heads": heads}
        for column, gpus in BALANCED.items():
            share = heads // gpus
            slowest = sum(max(sum(layer[i * share : (i + 1) * share]) for i in range(gpus)) for layer in layers.values())
            row[column] = slowest / (sum(map(sum, layers.values())) / gpus) if heads % gpus == 0 else None
        yield row


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=WEIGHTS, default="wan14b_720p")
    parser.add_argument("--density", type=float, default=0.25)
    arguments = parser.parse_args()
    name, density = arguments.shape, arguments.density
    title = f"SVG2 at density {density}, {name}: seconds of a step with cond and uncond, predicted"
    header = "GPU | link | GPUs | attention | exchange | rest | step | gain"
    rows = [
        {key: value / 1000 if isinstance(value, float) and key != "gain" else value for key, value in row.items()}
        for row in speed_rows(name, density)
    ]
    print("\n".join(table(title, header, "gpu link gpus attention:.2f exchange:.2f rest:.2f step:.2f gain:.1f", rows)))
    title, header = f"{name}: MB on each GPU beyond dense attention", "GPUs | of a call | kept between calls"
    print("\n".join(table(title, header, "gpus call_bytes:.0f state_bytes:.0f", list(memory_rows(name, density)))))
    title = "Time in attention over that of an even share, with one top_p for all heads"
    form = "model heads two:.2f four:.2f eight:.2f"
    print("\n".join(table(title, "model | heads | on 2 | on 4 | on 8", form, list(balance_rows()))))


if __name__ == "__main__":
    main()
