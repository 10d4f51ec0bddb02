"""Synthetic q, k, v with the structure of a video: smooth objects that move over a panning background, 3D RoPE."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Gain of q.k per head, cycled over the heads: from nearly uniform to sharp, as heads of real models differ.
HEAD_GAINS = (3.0, 2.0, 5.0, 2.5)
CONTENT_SHARE = (0.75, 0.5, 0.9, 0.3)


def video_qkv(
    frames: int, height: int, width: int, *, heads: int, head_dim: int, text: int = 0, dtype=torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k, v [1, heads, frames*height*width + text, head_dim]; `text` tokens (noise) stand after the video.

    Tokens that see the same point of the same object have near content vectors; a head mixes content that q and
    k share with content of its own, normalises, scales by its gain and rotates by position (3D RoPE, theta 10,000,
    split over t, h, w as Wan splits it).
    """
    rng = torch.Generator().manual_seed(seed)
    content = _content(frames, height, width, rng)
    angle = _rope(frames, height, width, head_dim)
    q, k, v = [], [], []
    for head in range(heads):
        gain, share = HEAD_GAINS[head % len(HEAD_GAINS)], CONTENT_SHARE[head % len(CONTENT_SHARE)]
        shared, of_q, of_k, of_v = (content @ torch.randn(content.shape[1], head_dim, generator=rng) for _ in range(4))
        bias = torch.randn(head_dim, generator=rng)
        for result, own in ((q, of_q), (k, of_k)):
            x = (
                math.sqrt(share) * shared
                + math.sqrt(1 - share) * own
                + 0.7 * content.std() * math.sqrt(content.shape[1]) * bias
            )
            x = x / x.square().mean(-1, keepdim=True).sqrt() * math.sqrt(gain)
            result.append(rotate(x, angle.cos(), angle.sin()))
        v.append(of_v + 0.3 * torch.randn(of_v.shape, generator=rng))
    q, k, v = (torch.stack(x).unsqueeze(0) for x in (q, k, v))
    if text:
        q, k, v = (torch.cat([x, torch.randn(1, heads, text, head_dim, generator=rng)], 2) for x in (q, k, v))
    return q.to(dtype), k.to(dtype), v.to(dtype)


def hard_for_few_bits(q: Tensor, k: Tensor, v: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """What q, k, v [B, H, N, D] may look like where products of few bits lose most, by name; bf16, or fp16 at its ends."""
    rng = torch.Generator().manual_seed(0)
    of_q, of_k, of_v = (torch.randn(*x.shape[:2], 1, x.shape[3], generator=rng) for x in (q, k, v))
    size_q, size_k, size_v = (x.std(dim=(-2, -1), keepdim=True) for x in (q, k, v))
    channel, token = k.clone(), v.clone()
    channel[..., 17] *= 50
    token[:, :, 5] *= 50
    cases = {
        "as it is": (q, k, v),
        "a channel of k 50 times as large": (q, channel, v),
        "a token of v 50 times as large": (q, k, token),
        "q and k off by 3 times their size": (q + 3 * size_q * of_q, k + 3 * size_k * of_k, v),
        "q and k off by 10 times their size": (q + 10 * size_q * of_q, k + 10 * size_k * of_k, v),
        "v off by 10 times its size": (q, k, v + 10 * size_v * of_v),
        "q tiny, k huge, v tiny": (1e-6 * q, 1e6 * k, 1e-12 * v),
        "q huge, k tiny, v huge": (1e6 * q, 1e-6 * k, 1e12 * v),
    }
    cases = {name: tuple(x.to(torch.bfloat16) for x in case) for name, case in cases.items()}
    high = 6e4 / k.abs().max()
    cases["k and v at the end of float16"] = tuple(x.half() for x in (q / high, k * high, v * 6e4 / v.abs().max()))
    return cases


def _content(frames: int, height: int, width: int, rng: torch.Generator, objects: int = 5, features: int = 48) -> Tensor:
    """[frames*height*width, features]: Fourier features of each token's place on the object that covers it."""
    t, y, x = torch.meshgrid(
        torch.linspace(0, 1, frames), torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    pan = torch.rand(2, generator=rng) * 0.4 - 0.2
    layer = _fourier(torch.stack([x + pan[0] * t, y + pan[1] * t], -1), 3.0, features, rng)
    for _ in range(objects):
        centre, speed = torch.rand(2, generator=rng), torch.rand(2, generator=rng) * 0.6 - 0.3
        radius = 0.08 + 0.14 * torch.rand(1, generator=rng)
        local = torch.stack([x - centre[0] - speed[0] * t, y - centre[1] - speed[1] * t], -1)
        cover = torch.sigmoid((radius - local.norm(dim=-1, keepdim=True)) * 60)
        layer = torch.lerp(layer, 1.5 * _fourier(local, 6.0, features, rng), cover)
    return layer.flatten(0, 2)


def _fourier(position: Tensor, frequency: float, features: int, rng: torch.Generator) -> Tensor:
    waves = torch.randn(position.shape[-1], features, generator=rng) * frequency
    return torch.cos(position @ waves + 2 * math.pi * torch.rand(features, generator=rng))


def _rope(frames: int, height: int, width: int, head_dim: int) -> Tensor:
    """[frames*height*width, head_dim/2] rotation angles."""
    pairs = head_dim // 2
    per_axis = (pairs - 2 * (pairs // 3), pairs // 3, pairs // 3)
    angles = []
    for axis, (size, count) in enumerate(zip((frames, height, width), per_axis, strict=True)):
        frequency = 10_000.0 ** -(torch.arange(count) / count)
        shape = [1, 1, 1, count]
        shape[axis] = size
        angles.append((torch.arange(size).unsqueeze(1) * frequency).view(shape).expand(frames, height, width, count))
    return torch.cat(angles, -1).flatten(0, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [..., D], each pair of neighbours turned by its angle, of which are given cos and sin [..., D/2]."""
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
