"""What error does a density cost on heads as concentrated as those of a real model? One call, 16,384 tokens; where SVG2
steers each head to an error, the last of five.

    python benchmarks/quality_heads.py --json benchmarks/results/quality_heads.jsonl

Synthetic q, k, v (tests/harness/scene.py); each head's logits are scaled until the smallest share of keys that holds 95 % of
its attention is that of a quantile of the model's heads, from benchmarks/data/attention_density.

--precisions asks instead what products in few bits add, on these heads and on such as are hard for them.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch
from measure import Rows, use_tiles  # loads the pack, puts demo/ and tests/harness/ on the path

# isort: split
from baselines import Blocks, RandomClusters
from render import PUBLISHED
from scene import hard_for_few_bits, video_qkv
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, VideoLayout, sparse_attention
from sparse_videogen.svg_core.sampling import stratified
from torch import Tensor

DATA = Path(__file__).with_name("data") / "attention_density"
COLUMNS = ("provider", "setting", "density", "computed", "error", "error_max")
COLUMNS_OF_PRECISIONS = ("content", "precision", "density", "error", "added", "added_max")
HELD, ROWS = 0.95, 64
TILE = (128, 64)
SVG2 = SVG2Config(q_clusters=64, k_clusters=216, min_keep=0.02)
TARGET_ERRORS = (0.02, 0.05, 0.1)
SETTLED = 5  # calls until a head's density is what its target error asks for


def curves(
    by_mass: SVG2Config, by_error: SVG2Config, top_p: tuple[float, ...], shares: tuple[float, ...], densities: tuple[float, ...]
) -> dict[str, dict]:
    """Provider -> setting -> config.

    Args:
        by_mass, by_error: SVG2's settings where it chooses by top_p, and where by expected error.
        top_p: of the former.
        shares: densities of the baselines and of SVG.
        densities: of SVG2 by expected error, and of random clusters.
    """
    by_mass = replace(by_mass, choose_by="top_p")
    paper = replace(by_mass, tile_cut="cluster", **PUBLISHED)
    to_target = replace(by_error, choose_by="target_error")
    chance = RandomClusters(**vars(by_error))
    return {
        "svg": {f"sparsity={1 - density:g}": SVGConfig(sparsity=1 - density) for density in shares if density >= 0.1},
        "top-blocks": {f"density={density}": Blocks(density) for density in shares},
        "random-blocks": {f"density={density}": Blocks(density, random=True) for density in shares},
        "random-clusters-tail": {f"density={density}": replace(chance, density=density) for density in densities},
        "svg2-paper": {f"top_p={p}": replace(paper, top_p=p) for p in top_p},
        "svg2-mass": {f"top_p={p}": replace(by_mass, top_p=p) for p in top_p},
        "svg2": {f"density={density}": replace(by_error, density=density) for density in densities},
        "svg2-target": {f"target_error={error}": replace(to_target, target_error=error) for error in TARGET_ERRORS},
    }


METHODS = curves(SVG2, SVG2, (0.5, 0.7, 0.8, 0.9, 0.95), (0.05, 0.1, 0.2, 0.3, 0.4), (0.05, 0.08, 0.15, 0.3))


def targets(model: str, heads: int) -> list[float]:
    """Densities at evenly spaced quantiles of a model's heads, [heads] in rising order.

    Raises:
        ValueError: there are no measurements of the model.
    """
    file = DATA / f"{model}.csv"
    if not file.exists():
        raise ValueError(f"no model {model!r}; there are {', '.join(sorted(file.stem for file in DATA.glob('*.csv')))}")
    with open(file) as lines:
        measured = torch.tensor([float(row["mean"]) for row in csv.DictReader(lines)])
    return measured.quantile((torch.arange(heads) + 0.5) / heads).tolist()


def density_of(logits: Tensor) -> float:
    """Smallest share of the keys that holds HELD of the attention, mean over the rows of logits [R, N]."""
    mass = logits.softmax(-1).sort(-1, descending=True).values.cumsum(-1)
    return ((mass < HELD).sum(-1) + 1).float().mean().item() / logits.shape[-1]


def concentrated(q: Tensor, k: Tensor, wanted: list[float]) -> tuple[Tensor, list[float]]:
    """q [1, H, N, D], each head scaled until its density is the wanted one, and the densities reached."""
    rows, scales, reached = stratified(ROWS, q.shape[2]), [], []
    for head, density in enumerate(wanted):
        logits = q[0, head, rows] @ k[0, head].T * q.shape[-1] ** -0.5
        low, high = 0.01, 100.0  # a larger scale concentrates
        for _ in range(20):
            middle = (low * high) ** 0.5
            low, high = (middle, high) if density_of(middle * logits) > density else (low, middle)
        scales.append(low)
        reached.append(density_of(low * logits))
    return q * torch.tensor(scales).view(1, -1, 1, 1), reached


def precisions(q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout) -> Iterator[dict]:
    """A row a content, density and precision of SVG2: the error, and what was added to the same plan's in 16 bit."""
    for (content, given), density in product(hard_for_few_bits(q, k, v).items(), (0.15, 0.3)):
        sixteen = None
        for precision in PRECISIONS:
            call = {"config": replace(SVG2, density=density), "layout": layout, "precision": precision}
            out, stats = sparse_attention(*given, **call, measure_error=True)
            sixteen = out.float() if sixteen is None else sixteen
            added = (out.float() - sixteen).norm(dim=(-2, -1)) / sixteen.norm(dim=(-2, -1))
            row = {"provider": "svg2", "content": content, "precision": precision, "finite": bool(out.isfinite().all())}
            row |= {name: getattr(stats, name).mean().item() for name in ("density", "error")}
            yield row | {"added": added.mean().item(), "added_max": added.max().item(), "added_by_head": added[0].tolist()}


def main() -> None:
    """A row a method and setting: means over heads, and each head's own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="wan2.1_t2v_14b", help="a file name in benchmarks/data/attention_density")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--grid", type=int, nargs=3, default=(16, 32, 32), help="frames, height, width in tokens")
    parser.add_argument("--providers", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precisions", action="store_true", help="vary the products' precision")
    parser.add_argument("--json", type=Path, default=None, help="file to append one JSON line a row to")
    arguments = parser.parse_args()
    wanted, layout = targets(arguments.model, arguments.heads), VideoLayout(*arguments.grid)
    use_tiles(*TILE)
    q, k, v = video_qkv(*arguments.grid, heads=arguments.heads, head_dim=128)
    q, reached = concentrated(q, k, wanted)
    print("density of the heads:", ", ".join(f"{density:.4f}" for density in reached))
    table = Rows(COLUMNS_OF_PRECISIONS if arguments.precisions else COLUMNS, arguments.json, "cpu")
    common = {"shape": arguments.model, "tokens": layout.tokens, "head_density": reached}
    if arguments.precisions:
        for row in precisions(q, k, v, layout):
            table.add({"op": "quality-heads-precision", **common, **row})
        return
    common["op"] = "quality-heads"
    for provider in arguments.providers:
        for setting, config in METHODS[provider].items():
            state = SparseState()
            for _ in range(SETTLED if provider == "svg2-target" else 1):
                _, stats = sparse_attention(q, k, v, config=config, layout=layout, state=state, measure_error=True)
            names = ("density", "computed", "error")
            row = {name: getattr(stats, name).mean().item() for name in names}
            if isinstance(config, Blocks):
                row["computed"] = row["density"]
            row |= {f"{name}_by_head": getattr(stats, name)[0].tolist() for name in names}
            row |= {"provider": provider, "setting": setting, "error_max": stats.error.max().item()}
            table.add({**common, **row})


if __name__ == "__main__":
    main()
