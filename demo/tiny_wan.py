"""Wan 2.1's text-to-video transformer in plain torch, with the tensor names of the original release."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

FREQ_DIM, TEXT_WIDTH, CHANNELS, PATCH = 256, 4096, 16, (1, 2, 2)
EPS = 1e-6
SHIFT = 5.0  # as in the example workflows


@dataclass(frozen=True)
class Size:
    """What is free in a Wan checkpoint: hosts read it from the tensors' shapes, and take heads of 128."""

    dim: int = 256
    ffn: int = 768
    layers: int = 4
    head_dim: int = 128


class Attention(nn.Module):
    """Attention with RMS norms of q and k over the whole width, before the heads are split.

    Attributes:
        attend: out [B, H, N, D] of q, k, v; what stands here may be replaced.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads, self.attend = heads, F.scaled_dot_product_attention
        self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))
        self.norm_q, self.norm_k = nn.RMSNorm(dim, EPS), nn.RMSNorm(dim, EPS)

    def forward(self, x: Tensor, context: Tensor, rope: tuple[Tensor, Tensor] | None = None) -> Tensor:
        q, k, v = self.norm_q(self.q(x).float()), self.norm_k(self.k(context).float()), self.v(context)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, v))
        if rope is not None:
            q, k = _rotate(q, rope), _rotate(k, rope)
        out = self.attend(q.to(v.dtype), k.to(v.dtype), v)
        return self.o(out.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, cross-attention to the text and an MLP; the first and last are modulated by the time."""

    def __init__(self, size: Size):
        super().__init__()
        heads = size.dim // size.head_dim
        self.self_attn, self.cross_attn = Attention(size.dim, heads), Attention(size.dim, heads)
        self.norm3 = nn.LayerNorm(size.dim, EPS)
        self.ffn = nn.Sequential(
            nn.Linear(size.dim, size.ffn), nn.GELU(approximate="tanh"), nn.Linear(size.ffn, size.dim)
        )  # fmt: skip
        self.modulation = nn.Parameter(torch.randn(1, 6, size.dim) / size.dim**0.5)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (self.modulation + time).chunk(6, 1)
        normed = _norm(x) * (1 + scale) + shift
        x = x + self.self_attn(normed, normed, rope) * gate
        x = x + self.cross_attn(self.norm3(x), text)
        return x + self.ffn(_norm(x) * (1 + ffn_scale) + ffn_shift) * ffn_gate


class Head(nn.Module):
    def __init__(self, dim: int):
        super().__init__()
        self.head = nn.Linear(dim, CHANNELS * PATCH[1] * PATCH[2])
        self.modulation = nn.Parameter(torch.randn(1, 2, dim) / dim**0.5)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        shift, scale = (self.modulation + time.unsqueeze(1)).chunk(2, 1)
        return self.head(_norm(x) * (1 + scale) + shift)


class TinyWan(nn.Module):
    """velocity = model(x, time, text); state_dict() is a checkpoint that ComfyUI and diffusers load."""

    def __init__(self, size: Size = Size()):
        super().__init__()
        self.size, dim = size, size.dim
        self.patch_embedding = nn.Conv3d(CHANNELS, dim, PATCH, PATCH)
        self.text_embedding = nn.Sequential(nn.Linear(TEXT_WIDTH, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))
        self.time_embedding = nn.Sequential(nn.Linear(FREQ_DIM, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(size) for _ in range(size.layers))
        self.head = Head(dim)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head.head.weight)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        """Predicts noise - clip.

        Args:
            x: [B, 16, T, H, W], H and W even.
            time: [B], 1000 * sigma.
            text: [B, tokens, 4096].

        Returns:
            [B, 16, T, H, W].
        """
        grid = (x.shape[2], x.shape[3] // PATCH[1], x.shape[4] // PATCH[2])
        # The patch embedding as a product: Conv3d's backward pass is slow on a CPU.
        patches = x.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3)
        h = F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        e = self.time_embedding(_sinusoids(time).to(h.dtype))
        modulation = self.time_projection(e).unflatten(1, (6, -1))
        text = self.text_embedding(text)
        rope = rotation(*grid, self.size.head_dim, x.device)
        for block in self.blocks:
            h = block(h, modulation, text, rope)
        h = self.head(h, e).unflatten(1, grid).unflatten(-1, (*PATCH[1:], CHANNELS))
        return h.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


def load(file: Path) -> TinyWan:
    """The model of a checkpoint, in float32."""
    weights = load_file(file)
    dim, layers = weights["head.modulation"].shape[-1], sum(name.endswith("ffn.0.bias") for name in weights)
    model = TinyWan(Size(dim, weights["blocks.0.ffn.0.bias"].shape[0], layers))
    model.load_state_dict(weights)
    return model.float().eval().requires_grad_(False)


def shifted(u: Tensor | float, shift: float = SHIFT) -> Tensor | float:
    """Noise level of a place u in the schedule, from 1 (all noise) to 0, as hosts have it for flow models."""
    return shift * u / (1 + (shift - 1) * u)


@torch.no_grad()
def sample(
    model: TinyWan,
    noise: Tensor,
    text: Tensor,
    *,
    no_text: Tensor | None = None,
    guidance: float = 1.0,
    steps: int = 20,
    before_step: Callable[[int], None] = lambda step: None,
) -> Tensor:
    """Latents [B, 16, T, H, W] from noise of that shape, by Euler's method.

    Args:
        text: [B, tokens, 4096].
        no_text: [1, tokens, 4096], what stands for no prompt; None samples without guidance.
        guidance: scale of the way from no prompt to the prompt.
        before_step: called with each step's number, from 0.
    """
    texts = text if no_text is None else torch.cat([text, no_text.expand_as(text)])
    x, sigmas = noise, [shifted(1 - i / steps) for i in range(steps + 1)]
    for i in range(steps):
        before_step(i)
        both = x if no_text is None else torch.cat([x, x])
        velocity = model(both, torch.full((len(both),), 1000 * sigmas[i], device=x.device), texts).float()
        if no_text is not None:
            prompted, plain = velocity.chunk(2)
            velocity = plain + guidance * (prompted - plain)
        x = x + (sigmas[i + 1] - sigmas[i]) * velocity
    return x


def rotation(frames: int, height: int, width: int, head_dim: int, device=None) -> tuple[Tensor, Tensor]:
    """cos and sin [frames*height*width, head_dim/2] of the 3D rotary embedding, pairs shared among t, h, w."""
    plane = 2 * (head_dim // 6)
    angles = []
    for axis, (length, dim) in enumerate(zip((frames, height, width), (head_dim - 2 * plane, plane, plane), strict=True)):
        frequency = 10_000.0 ** -(torch.arange(0, dim, 2, device=device).float() / dim)
        shape = [1, 1, 1, dim // 2]
        shape[axis] = length
        angle = (torch.arange(length, device=device).float().unsqueeze(1) * frequency).view(shape)
        angles.append(angle.expand(frames, height, width, -1))
    angle = torch.cat(angles, -1).flatten(0, 2)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = rope
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=EPS)


def _sinusoids(time: Tensor) -> Tensor:
    half = FREQ_DIM // 2
    angle = time.float().unsqueeze(1) * 10_000.0 ** -(torch.arange(half, device=time.device) / half)
    return torch.cat([angle.cos(), angle.sin()], 1)
