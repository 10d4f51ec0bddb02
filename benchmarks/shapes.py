"""Attention shapes of real models, and small ones for a CPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """One self-attention call: batch 1, `text` tokens after frames x height x width video tokens; `model` has such layers."""

    heads: int
    head_dim: int
    frames: int
    height: int
    width: int
    text: int = 0
    layers: int = 1
    q_clusters: int = 300
    k_clusters: int = 1000
    model: str = "wan"

    @property
    def tokens(self) -> int:
        return self.frames * self.height * self.width + self.text


SHAPES = {
    "wan14b_720p": Shape(40, 128, 21, 45, 80, layers=40),
    "wan14b_480p": Shape(40, 128, 21, 30, 52, layers=40, q_clusters=200),
    "wan1.3b_480p": Shape(12, 128, 21, 30, 52, layers=30, q_clusters=200),
    "hunyuan_720p": Shape(24, 128, 33, 45, 80, text=256, layers=60, q_clusters=400, model="hunyuan"),
    "cogvideox15": Shape(48, 64, 11, 48, 85, text=226, layers=42, model="cogvideox"),
    "cpu_16k": Shape(4, 128, 16, 32, 32, q_clusters=64, k_clusters=216),
    "cpu_2k": Shape(2, 64, 8, 16, 16, text=7, q_clusters=16, k_clusters=32),
}
GPU_SHAPES = ("wan14b_720p", "wan14b_480p", "wan1.3b_480p", "hunyuan_720p", "cogvideox15")
CPU_SHAPES = ("cpu_16k",)
DENSITIES = (0.15, 0.25, 0.5)
CONDITIONINGS = 2  # cond and uncond, of which a sampler with guidance calls both
