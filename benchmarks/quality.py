"""What does sparsity do to a video? PSNR, SSIM and attention error against density, on the tiny Wan model.

    python benchmarks/quality.py --json benchmarks/results/quality.jsonl

Every prompt of the model by every method, with the demo's guidance, each against its own dense render. --studies
varies one setting of SVG2 at a time instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from measure import Rows, use_tiles  # loads the pack, puts demo/ and tests/harness/ on the path

# isort: split
import tiny_wan
from diffusers_host import Run
from moving_shapes import PROMPTS
from quality_heads import curves
from render import Scene
from sparse_videogen.svg_core import SVG2Config, VideoLayout
from torch import Tensor
from video_quality import psnr, ssim

COLUMNS = ("provider", "setting", "start_percent", "density", "computed", "psnr", "psnr_min", "ssim", "error", "seconds")
# At 720p a query cluster has about 250 rows on tiles of 128; here about 110 on tiles of 64. Key clusters of as many tokens
# as there (76) would be 17: too few to choose from, so they are smaller.
TILE = (64, 32)
SVG2 = SVG2Config(q_clusters=12, k_clusters=96, kmeans_init_iters=10, min_keep=0.02)
CURVES = curves(SVG2, (0.3, 0.5, 0.7, 0.9), (0.1, 0.2, 0.4))
BASE = replace(SVG2, top_p=0.7)
WARM_UPS = (0.0, 0.2)
STARTS = (0.0, 0.1, 0.3, 0.4)  # 0.2 is that of the other studies
STUDIES = {
    "base": [("", BASE, 0.2)],
    "tail off": [("", replace(BASE, tail="off"), 0.2)],
    "clusters": [
        (f"{q}/{k}", replace(BASE, q_clusters=q, k_clusters=k), 0.2) for q, k in ((6, 48), (24, 96), (12, 192), (24, 192))
    ],
    "recluster_every": [(str(n), replace(BASE, recluster_every=n), 0.2) for n in (2, 4, 8)],
    "kmeans_step_iters": [(str(n), replace(BASE, kmeans_step_iters=n), 0.2) for n in (1, 4)],
    "start_percent": [(str(start), BASE, start) for start in STARTS],
    "start_percent, tail off": [(str(start), replace(BASE, tail="off"), start) for start in STARTS],
}


class Renderer:
    """Renders all prompts of a seed at once, with any attention in place of the model's own."""

    def __init__(self, frames: int, pixels: int, steps: int, prompts: int = len(PROMPTS)):
        self.model, self.scene, self.prompts = tiny_wan.load(), Scene(frames=frames, pixels=pixels, steps=steps), range(prompts)
        self.layout = VideoLayout(*self.scene.grid)

    def render(self, seed: int, config=None, start_percent: float = 0.0) -> tuple[Tensor, dict]:
        """Videos [B, T, H, W], and the means of density, computed and error over the sparse calls."""
        run = Run(config, self.layout, self.scene.steps, start_percent)

        def before_step(step: int, sigma: float) -> None:
            run.step = step

        tiny_wan.take_attention(self.model, run.attend)
        scene = (self.prompts, self.scene.frames, self.scene.pixels, self.scene.steps, seed)
        with torch.autocast("cpu", torch.bfloat16):
            return tiny_wan.sample(self.model, *scene, before_step), run.figures()


def measure(renderer: Renderer, references: dict[int, Tensor], config, start_percent: float) -> dict:
    """Means over prompts and seeds; PSNR's mean is over the decibels of each video."""
    begin, near, counted = time.perf_counter(), [], []
    for seed, reference in references.items():
        videos, means = renderer.render(seed, config, start_percent)
        near += [(psnr(a, b), ssim(a, b)) for a, b in zip(videos, reference, strict=True)]
        counted.append(means)
    decibels, similar = zip(*near, strict=True)
    means = {name: sum(x[name] for x in counted) / len(counted) for name in counted[0]}
    quality = {"psnr": sum(decibels) / len(near), "psnr_min": min(decibels), "ssim": sum(similar) / len(near)}
    return {**means, **quality, "videos": len(near), "seconds": time.perf_counter() - begin}


def jobs(studies: bool, warm_ups: list[float]) -> Iterator[tuple[dict, object, float]]:
    """(what the row says of itself, config, start_percent)."""
    if studies:
        points = [(study, *point) for study, points in STUDIES.items() for point in points]
    else:
        points = [(curve, *point, s) for s in warm_ups for curve, points in CURVES.items() for point in points.items()]
    for provider, setting, config, start in points:
        yield {"provider": provider, "setting": setting}, config, start


def main() -> None:
    """A row a method, setting and length of the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", action="store_true", help="vary one setting of SVG2 at a time")
    parser.add_argument("--providers", nargs="+", default=None, help="only these")
    parser.add_argument("--warm-ups", nargs="+", type=float, default=WARM_UPS, help="shares of the steps that run dense first")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--pixels", type=int, default=80)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--json", type=Path, default=None, help="file to append one JSON line a row to")
    arguments = parser.parse_args()
    use_tiles(*TILE)
    renderer = Renderer(arguments.frames, arguments.pixels, arguments.steps, arguments.prompts)
    references = {seed: renderer.render(seed)[0] for seed in range(arguments.seeds)}
    table = Rows(COLUMNS, arguments.json, "cpu")
    common = {"op": "quality-study" if arguments.studies else "quality", "shape": "tiny_wan"}
    common |= {"tokens": renderer.layout.tokens, "steps": arguments.steps}
    for names, config, start in jobs(arguments.studies, arguments.warm_ups):
        if arguments.providers is None or names["provider"] in arguments.providers:
            row = measure(renderer, references, config, start)
            table.add({**common, **names, "start_percent": start, **row})


if __name__ == "__main__":
    main()
