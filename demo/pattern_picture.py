"""A picture of what each head reads: the attention itself, and what SVG and SVG2 compute of it."""

from __future__ import annotations

from pathlib import Path

import torch
from scene import video_qkv
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, VideoLayout, svg, svg2
from torch import Tensor

GRID = (8, 16, 16)
HEADS, HEAD_DIM, CELLS = 4, 128, 128
ROWS = (
    ("attention", None),
    ("SVG, sparsity 0.7", SVGConfig(sparsity=0.7)),
    ("SVG2, top_p 0.8", SVG2Config(top_p=0.8, min_keep=0.03, q_clusters=40, k_clusters=80, kmeans_init_iters=10)),
)


def draw(file: Path) -> None:
    """Writes a PNG: a column a head, a row a method; keys to the right, queries downwards, frame after frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    q, k, v = video_qkv(*GRID, heads=HEADS, head_dim=HEAD_DIM)
    layout, tokens = VideoLayout(*GRID), q.shape[2]
    probs = ((q @ k.transpose(2, 3)) * HEAD_DIM**-0.5).softmax(-1)[0]
    figure, axes = plt.subplots(len(ROWS), HEADS, figsize=(2.6 * HEADS, 2.75 * len(ROWS)), layout="constrained")
    for line, (title, config) in zip(axes, ROWS, strict=True):
        plan = None if config is None else _plan(q, k, v, config, layout)
        for head, axis in enumerate(line):
            if plan is None:
                axis.imshow(_cells(probs[head] * tokens).log10(), cmap="magma", vmin=-2, vmax=1.5, interpolation="nearest")
                axis.set_title(f"head {head}: {title}", fontsize=9)
            else:
                mask, kind = _mask(plan, head, tokens), ""
                if isinstance(config, SVGConfig):
                    kind = (", spatial", ", temporal")[int(plan.set_of_head[0, head])]
                mass = (probs[head] * mask).sum(-1).mean()
                axis.imshow(
                    _cells(mask.float()).sqrt(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest"
                )  # root: thin lines stay visible
                axis.set_title(f"{title}{kind}\ndensity {mask.float().mean():.2f} holds {mass:.0%}", fontsize=9)
            axis.set_xticks([]), axis.set_yticks([])
    figure.suptitle(
        f"What each head reads: {GRID[0]} frames of {GRID[1]} x {GRID[2]} tokens, queries downwards, keys to the right",
        fontsize=10,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def _plan(q: Tensor, k: Tensor, v: Tensor, config, layout: VideoLayout):
    planner = svg.plan if isinstance(config, SVGConfig) else svg2.plan
    options = {"sm_scale": HEAD_DIM**-0.5, "block_m": 64, "backend": "torch"}
    ((_, plan),) = planner(q, k, v, config, layout, SparseState(), None, **options)
    return plan


def _mask(plan, head: int, tokens: int) -> Tensor:
    mask = torch.zeros(tokens, tokens, dtype=torch.bool)
    s = int(plan.set_of_head[0, head])
    for t, rows in enumerate(plan.query_index[s]):
        rows = rows[rows >= 0].long()
        mask[rows.unsqueeze(1), plan.key_index[s, t, : plan.key_count[s, t]].long()] = True
    return mask


def _cells(x: Tensor) -> Tensor:
    """[N, N] -> [CELLS, CELLS] means."""
    return torch.nn.functional.adaptive_avg_pool2d(x.unsqueeze(0), CELLS)[0]
