"""The little world of the tiny Wan model: shapes that move and bounce behind each other over a panning texture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from inspect import signature

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan
from torch import Tensor

CELL = 4  # pixels a latent cell, along height and width; its 16 pixels are the latent's 16 channels
TEXT_TOKENS, TEXT_WIDTH, FIRST_SEED = 8, 4096, 7000
# Of Wan 2.1's latents, per channel: hosts hand over model output * STD + MEAN.
MEAN, STD = (signature(AutoencoderKLWan).parameters[f"latents_{name}"].default for name in ("mean", "std"))


@dataclass(frozen=True)
class Shape:
    """What a prompt fixes of one shape: radius in pixels, grey value in [-1, 1], speed in pixels a frame."""

    kind: str
    radius: float
    grey: float
    speed_x: float
    speed_y: float


@dataclass(frozen=True)
class Prompt:
    """A sentence and what it stands for; shapes from back to front. Positions are left to chance."""

    text: str
    texture: str
    pan_x: float
    pan_y: float
    shapes: tuple[Shape, ...]


PROMPTS = (
    Prompt(
        "a white disc passes in front of a black square, over stripes that pan left",
        *("stripes", -1.5, 0.0),
        (Shape("square", 15, -0.9, -1.5, 1.5), Shape("disc", 13, 0.9, 3.0, 1.0)),
    ),
    Prompt(
        "two white squares cross behind a black disc, over checks that pan up",
        *("checks", 0.0, -1.5),
        (Shape("square", 11, 0.9, 3.0, 0.0), Shape("square", 11, 0.9, 0.0, 3.0), Shape("disc", 13, -0.9, -2.0, -2.0)),
    ),
    Prompt(
        "a white triangle rises in front of a black ring, over dots that pan right",
        *("dots", 1.5, 0.0),
        (Shape("ring", 18, -0.9, 2.0, 0.0), Shape("triangle", 15, 0.9, 1.0, -2.5)),
    ),
    Prompt(
        "a large white ring and a small black disc fall, over waves that pan down",
        *("waves", 0.0, 1.5),
        (Shape("ring", 20, 0.9, 1.0, 2.0), Shape("disc", 9, -0.9, -2.0, 3.0)),
    ),
    Prompt(
        "three white discs of three sizes run right, over stripes that pan right",
        *("stripes", 1.5, 0.0),
        (Shape("disc", 17, 0.8, 1.5, 0.5), Shape("disc", 12, 0.9, 2.5, -1.0), Shape("disc", 8, 1.0, 3.5, 1.5)),
    ),
    Prompt(
        "a black cross drifts in front of a white square, over dots that pan down",
        *("dots", 0.0, 1.5),
        (Shape("square", 17, 0.9, -1.5, -1.0), Shape("cross", 16, -0.9, 2.0, 1.5)),
    ),
    Prompt(
        "two black triangles run left behind a white cross, over waves that pan left",
        *("waves", -1.5, 0.0),
        (Shape("triangle", 13, -0.9, -3.0, 0.5), Shape("triangle", 13, -0.9, -2.0, -1.5), Shape("cross", 15, 0.9, 1.0, 2.0)),
    ),
    Prompt(
        "a white disc, a grey square and a black triangle bounce, over checks that pan right",
        *("checks", 1.5, 0.0),
        (Shape("disc", 14, 0.9, 2.0, 2.0), Shape("square", 12, 0.45, -2.5, 1.0), Shape("triangle", 13, -0.9, 1.0, -3.0)),
    ),
)


def embed(prompt: int | None) -> Tensor:
    """The text sequence of a prompt, or of no prompt (None), [1, TEXT_TOKENS, TEXT_WIDTH]: noise from its own seed."""
    rng = torch.Generator().manual_seed(seed_of(prompt))
    return torch.randn(1, TEXT_TOKENS, TEXT_WIDTH, generator=rng)


def seed_of(prompt: int | None) -> int:
    """The seed that `embed` draws a prompt's sequence from."""
    if prompt is not None and not 0 <= prompt < len(PROMPTS):
        raise ValueError(f"prompt {prompt}: there are 0 to {len(PROMPTS) - 1}")
    return FIRST_SEED + (len(PROMPTS) if prompt is None else prompt)


def clips(
    prompts: list[int], frames: int, height: int, width: int, rng: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """One clip a prompt, [B, frames, height, width] in [-1, 1].

    Args:
        prompts: numbers in PROMPTS.
        height, width: pixels.
        rng: places shapes and texture; on the CPU.
        device: where the clips are made.
    """
    chances = [torch.rand(1 + len(PROMPTS[number].shapes), 2, 1, 1, 1, generator=rng) for number in prompts]
    time = torch.arange(frames, device=device).view(-1, 1, 1)
    y, x = torch.meshgrid(torch.arange(height, device=device) + 0.5, torch.arange(width, device=device) + 0.5, indexing="ij")
    result = torch.empty(len(prompts), frames, height, width, device=device)
    for number in set(prompts):  # clips of one prompt together
        prompt, which = PROMPTS[number], [i for i, other in enumerate(prompts) if other == number]
        phase, *places = torch.stack([chances[i] for i in which], 2).to(device)
        phase = phase * 48
        picture = _texture(prompt.texture, x - prompt.pan_x * time + phase[0], y - prompt.pan_y * time + phase[1])
        for shape, place in zip(prompt.shapes, places, strict=True):
            centre_x = _bounce(place[0], shape.speed_x * time, shape.radius, width)
            centre_y = _bounce(place[1], shape.speed_y * time, shape.radius, height)
            inside = _distance(shape.kind, x - centre_x, y - centre_y, shape.radius)
            picture = torch.lerp(picture, torch.tensor(shape.grey, device=device), (0.5 - inside).clamp(0, 1))
        result[which] = picture
    return result


def to_latent(video: Tensor) -> Tensor:
    """Grey video [B, T, H, W] -> what the model sees, [B, 16, T, H/4, W/4]: a 4 x 4 pixel-unshuffle."""
    return F.pixel_unshuffle(video.unsqueeze(2), CELL).transpose(1, 2)


def from_latent(latent: Tensor) -> Tensor:
    """The inverse of `to_latent`."""
    return F.pixel_shuffle(latent.transpose(1, 2), CELL).squeeze(2)


def from_host_latent(latent: Tensor) -> Tensor:
    """Grey video [B, T, H, W] of a latent [B, 16, T, H/4, W/4] that a host has scaled for Wan's VAE."""
    mean, std = (torch.tensor(x, dtype=latent.dtype).view(1, -1, 1, 1, 1) for x in (MEAN, STD))
    return from_latent((latent - mean) / std)


def _bounce(place: Tensor, way: Tensor, radius: float, size: int) -> Tensor:
    """Where a centre is that starts at `place` (in [0, 1]) and turns back at the borders."""
    room = size - 2 * radius
    if room <= 0:
        raise ValueError(f"{size} pixels hold no shape of radius {radius}: make the picture larger")
    folded = (place * room + way) % (2 * room)
    return radius + torch.minimum(folded, 2 * room - folded)


def _texture(kind: str, x: Tensor, y: Tensor) -> Tensor:
    """Grey values in [-0.4, 0.4]; repeats every 48 pixels, six tokens: rotary embeddings see no finer periods."""
    turn = 2 * math.pi / 48
    wave_x, wave_y = torch.cos(turn * x), torch.cos(turn * y)
    if kind == "stripes":
        return 0.4 * (2 * torch.cos(turn * (x + y))).clamp(-1, 1)
    if kind == "checks":
        return 0.4 * (4 * wave_x * wave_y).clamp(-1, 1)
    if kind == "dots":
        return 0.3 - 0.6 * (2 * (wave_x + wave_y) - 1).clamp(0, 1)
    return 0.4 * torch.cos(turn * y + 1.5 * wave_x)


def _distance(kind: str, x: Tensor, y: Tensor, radius: float) -> Tensor:
    """Pixels to the outline, negative inside."""
    if kind == "disc":
        return torch.hypot(x, y) - radius
    if kind == "square":
        return torch.maximum(x.abs(), y.abs()) - radius * 0.85
    if kind == "ring":
        return (torch.hypot(x, y) - radius * 0.75).abs() - radius * 0.25
    if kind == "triangle":
        return torch.maximum(x.abs() * 0.866 + y * -0.5, y) - radius * 0.55
    arm, reach = radius * 0.33, radius
    bars = [torch.maximum(a.abs() - reach, b.abs() - arm) for a, b in ((x, y), (y, x))]
    return torch.minimum(*bars)
