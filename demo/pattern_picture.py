"""A picture of what each head of the tiny model reads: the attention itself, and what SVG and SVG2 compute of it."""

from __future__ import annotations

from pathlib import Path

import torch
from moving_shapes import embed, to_latent
from PIL import Image
from render import METHODS, Method  # adds tests/harness

# isort: split
from masks import plan_mask
from sparse_videogen.svg_core import Call, SparseState, SVG2Config, SVGConfig, VideoLayout, methods
from tiny_wan import load, shifted, take_attention
from torch import Tensor

CELLS_A_FRAME = 6
SIGMA = shifted(0.5)  # of the noise on the video


@torch.no_grad()
def attention_inputs(video: Tensor, prompt: int) -> tuple[VideoLayout, list[tuple]]:
    """The layout and each layer's q, k, v [1, H, N, D] of the tiny model, for a video [T, H, W] with noise."""
    model, taken = load(), []
    clean = to_latent(video.unsqueeze(0))
    noisy = torch.lerp(clean, torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)), SIGMA)

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        taken.append((q, k, v))
        return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    take_attention(model, attend)
    model(noisy, torch.tensor([1000 * SIGMA]), embed(prompt))
    return VideoLayout(clean.shape[2], clean.shape[3] // 2, clean.shape[4] // 2), taken


def draw(video: Tensor, prompt: int, file: Path) -> None:
    """Writes a PNG: a column a head, a row a method; keys to the right, queries downwards, frame after frame."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    layout, layers = attention_inputs(video, prompt)
    methods = (None, METHODS[1], METHODS[3])
    heads = layers[0][0].shape[1]
    figure, axes = plt.subplots(
        len(methods), heads * len(layers), figsize=(1.9 * heads * len(layers), 6.2), layout="constrained"
    )  # fmt: skip
    for layer, (q, k, v) in enumerate(layers):
        probs = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).softmax(-1)[0]
        for line, method in zip(axes, methods, strict=True):
            for head, axis in enumerate(line[layer * heads : (layer + 1) * heads]):
                title = f"block {layer}, head {head}" if method is None else _masked(axis, method, q, k, v, layout, probs, head)
                if method is None:
                    shares = _cells(probs[head] * layout.tokens, layout).log10()
                    axis.imshow(shares, cmap="magma", vmin=-2, vmax=1.5, interpolation="nearest")
                axis.set_title(title, fontsize=8)
                axis.set_xticks([]), axis.set_yticks([])
    for line, name in zip(axes, ("attention", "SVG computes", "SVG2 computes"), strict=True):
        line[0].set_ylabel(name, fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=70)
    plt.close(figure)
    Image.open(file).convert("RGB").quantize(256).save(file, optimize=True)


def _masked(axis, method: Method, q: Tensor, k: Tensor, v: Tensor, layout: VideoLayout, probs: Tensor, head: int) -> str:
    """Draws what a method computes of a head; returns what to say of it."""
    config = (SVGConfig if method.node == "SVGAttention" else SVG2Config)(**method.inputs)
    call = Call(config, layout, q.shape[-1] ** -0.5, 64, "torch", 1 << 30)
    ((_, plan),) = methods.METHODS[type(config)].plan(q, k, v, call, SparseState(), None).parts
    mask, s = plan_mask([plan], layout.tokens)[0, head], int(plan.list_of_head[0, head])
    # The root keeps thin lines visible.
    axis.imshow(_cells(mask.float(), layout).sqrt(), cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    kind = ("spatial, ", "temporal, ")[s] if isinstance(config, SVGConfig) else ""
    return f"{kind}{mask.float().mean():.0%}\nholds {(probs[head] * mask).sum(-1).mean():.0%}"


def _cells(x: Tensor, layout: VideoLayout) -> Tensor:
    """[N, N] -> means over cells, CELLS_A_FRAME of them a frame."""
    return torch.nn.functional.adaptive_avg_pool2d(x.unsqueeze(0), layout.frames * CELLS_A_FRAME)[0]
