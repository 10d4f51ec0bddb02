"""What does sparsity do to a video? PSNR, SSIM and attention error against density, on the tiny Wan model.

    python benchmarks/quality.py --json benchmarks/results/quality.jsonl

Every prompt of the model by every method, with the demo's guidance, each against its own dense render. --studies
varies one setting of SVG2 at a time instead, --schedules which steps are dense, at equal work, --precisions in how many bits
the products are computed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import torch
from measure import Rows, use_tiles  # loads the pack, puts demo/ and tests/harness/ on the path

# isort: split
import tiny_wan
from diffusers_host import CONDITIONINGS, Run
from moving_shapes import PROMPTS
from quality_heads import curves
from render import Scene, work
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import SVG2Config, SVGConfig, VideoLayout
from torch import Tensor
from video_quality import change_error, psnr, ssim

COLUMNS = (
    *("provider", "setting", "start_percent", "steps", "density", "work", "computed"),
    *("psnr", "psnr_min", "ssim", "change_error", "error", "added", "added_max", "seconds"),
)
# At 720p a query cluster has about 250 rows on tiles of 128; here about 110 on tiles of 64, and by expected error one for each
# tile. Key clusters of as many tokens as there (76) would be 17: too few to choose from, so they are smaller.
TILE = (64, 32)
BY_MASS = SVG2Config(q_clusters=12, k_clusters=96, min_keep=0.02)
BY_ERROR = replace(BY_MASS, q_clusters=20)
CURVES = curves(BY_MASS, BY_ERROR, (0.3, 0.5, 0.7, 0.9), (0.1, 0.2, 0.3, 0.4), (0.08, 0.15, 0.3))
WARM_UPS = (0.0, 0.2)
BASE = replace(BY_ERROR, density=0.3)


@dataclass(frozen=True)
class Job:
    """A row: what it says of itself, and what is rendered for it.

    Attributes:
        start_percent: share of the steps that run dense first.
        steps: of the sampler; None is what --steps says.
        conditionings: that share their clusters; 1: each has its own.
        end_percent: share of the steps after which they run dense again.
        precision: of the sparse calls' products.
    """

    provider: str
    setting: str
    config: object
    start_percent: float = 0.0
    steps: int | None = None
    conditionings: int = CONDITIONINGS
    end_percent: float = 1.0
    precision: str = PRECISIONS[0]


def study(name: str, values: tuple) -> Iterator[Job]:
    """The base with each of these values of a setting."""
    return (Job(name, str(value), replace(BASE, **{name: value})) for value in values)


def studies() -> Iterator[Job]:
    """One setting of SVG2 at a time, the others as in the base: density 0.3, falling, no dense step."""
    for steps, density in ((4, 0.3), (8, 0.3), (10, 0.3), (20, 0.3), (10, 0.45)):
        for start in (1.0, 1.25, 1.5, 1.75):
            config = replace(BASE, density=density, density_start=start)
            yield Job(f"density_start, {steps} steps", f"{start:g} at {density:g}", config, steps=steps)
    for start in (0.0, 0.1, 0.2, 0.4):
        yield Job("start_percent", f"{start:g}", replace(BASE, density_start=1.0), start)
    yield from study("kmeans_init_iters", (5, 10, 20, 50))
    yield from study("kmeans_step_iters", (1, 2))
    yield from study("recluster_every", (1, 2, 4))
    yield from study("score_every", (1, 2, 4, 8))
    yield from study("tail", ("second_order", "zero_order", "off"))
    for q, k in ((20, 96), (10, 96), (40, 96), (20, 48), (20, 192)):
        yield Job("clusters", f"{q}/{k}", replace(BASE, q_clusters=q, k_clusters=k))
    for conditionings, setting in ((CONDITIONINGS, "shared"), (1, "not shared")):
        yield Job("cond and uncond", setting, BASE, conditionings=conditionings)


def at_work(method: str, steps: int, share: float, first: int = 0, last: int = 0, density_start: float = 1.0) -> Job:
    """A schedule with so many dense steps, whose other steps compute what is left of this share of a dense run's work."""
    dense = [f"{name} {count}" for name, count in (("first", first), ("last", last)) if count]
    setting = f"{' and '.join(dense) or 'none'} dense" + (f", falling from {density_start:g}" if density_start > 1 else "")
    density = 1 - (1 - share) * steps / (steps - first - last)
    config = SVGConfig(sparsity=1 - density)
    if method == "svg2":
        config = replace(BASE, density=density, density_start=density_start)
    end = 1 - (last + 0.5) / steps if last else 1.0  # a step that begins at the end runs sparse, so it lies inside of one
    return Job(method, setting, config, first / steps, steps, end_percent=end)


def schedules() -> Iterator[Job]:
    """Dense steps or none at equal work: with few steps, and at both ends of a longer run."""
    for steps, shares in ((4, (0.475, 0.3625)), (8, (0.3875, 0.25625))):  # of one dense step and 0.30 or 0.15 after it
        for share in shares:
            yield at_work("svg2", steps, share, first=1)
            for start in (1.0, 1.25, 1.5):
                yield at_work("svg2", steps, share, density_start=start)
    for steps, dense, shares in ((4, (1, 0), (0.55, 0.475, 0.4)), (8, (2, 1, 0), (0.55, 0.475))):
        for share in shares:
            for first in dense:
                yield at_work("svg", steps, share, first)
    for share in (0.65, 0.575):  # of five dense steps of ten and 0.30 or 0.15 in the others
        yield at_work("svg2", 10, share, first=4, last=1)
        yield at_work("svg2", 10, share, first=4)
        yield at_work("svg2", 10, share, last=1, density_start=1.5)
        yield at_work("svg2", 10, share, density_start=1.5)
    for first, last in ((4, 1), (4, 0), (2, 0), (0, 0)):
        yield at_work("svg", 10, 0.65, first, last)


def precisions() -> Iterator[Job]:
    """Each method in each precision, at the densities of the other tables."""
    for density, precision in product((0.15, 0.3), PRECISIONS):
        setting = f"density={density}, {precision}"
        falling, flat = (replace(BASE, density=density, density_start=start) for start in (1.5, 1.0))
        yield Job("svg", setting, SVGConfig(sparsity=1 - density), 0.2, precision=precision)
        yield Job("svg2", setting, flat, 0.2, precision=precision)
        yield Job("svg2", setting, falling, precision=precision)


def curve_points(warm_ups: list[float]) -> Iterator[Job]:
    """Every method and setting after each length of the dense steps; behind some, SVG2's density is the same in all others."""
    for start in warm_ups:
        for provider, points in CURVES.items():
            for setting, config in points.items():
                if start and isinstance(config, SVG2Config):
                    config = replace(config, density_start=1.0)
                yield Job(provider, setting, config, start)


class Renderer:
    """Renders all prompts of a seed at once, with any attention in place of the model's own."""

    def __init__(self, frames: int, pixels: int, prompts: int, seeds: int):
        self.model, self.prompts, self.seeds = tiny_wan.load(), range(prompts), range(seeds)
        self.size = Scene(frames=frames, pixels=pixels)
        self.layout = VideoLayout(*self.size.grid)
        self.dense, self.measure = (cache(function) for function in (self._dense, self._measure))

    def render(self, seed: int, steps: int, job: Job | None = None) -> tuple[Tensor, dict]:
        """Videos [B, T, H, W], the means of density, computed and error over the sparse calls, and the run's work."""
        run = Run(None, self.layout, steps, 0.0)
        if job is not None:
            schedule = (job.start_percent, job.conditionings, job.end_percent)
            run = Run(job.config, self.layout, steps, *schedule, job.precision)

        def before_step(step: int, sigma: float) -> None:
            run.step = step

        tiny_wan.take_attention(self.model, run.attend)
        with torch.autocast("cpu", torch.bfloat16):
            videos = tiny_wan.sample(self.model, self.prompts, self.size.frames, self.size.pixels, steps, seed, before_step)
        figures = run.figures()
        if figures:
            figures["work"] = work(figures["density"], len(run.stats) / len(self.model.blocks), steps)
        return videos, figures

    def _dense(self, seed: int, steps: int) -> Tensor:
        return self.render(seed, steps)[0]

    def _measure(self, job: Job, steps: int) -> dict:
        """Means over prompts and seeds; PSNR's mean is over the decibels of each video."""
        near, counted, seconds = [], [], 0.0
        for seed in self.seeds:
            reference, begin = self.dense(seed, steps), time.perf_counter()
            videos, means = self.render(seed, steps, job)
            seconds += time.perf_counter() - begin
            near += [(psnr(a, b), ssim(a, b), change_error(a, b)) for a, b in zip(videos, reference, strict=True)]
            counted.append(means)
        means = {name: sum(x[name] for x in counted) / len(counted) for name in counted[0]}
        averages = (sum(values) / len(near) for values in zip(*near, strict=True))
        quality = dict(zip(("psnr", "ssim", "change_error"), averages, strict=True))
        return {**means, **quality, "psnr_min": min(near)[0], "videos": len(near), "seconds": seconds}

    def row(self, job: Job, steps: int) -> dict:
        """What is measured of a job; one that differs in name alone is not rendered again."""
        return self.measure(replace(job, provider="", setting="", steps=None), job.steps or steps)


def main() -> None:
    """A row a method, setting and length of the warm-up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    const = {"dest": "op", "action": "store_const", "default": "quality"}
    what.add_argument("--studies", const="quality-study", help="vary one setting of SVG2 at a time", **const)
    what.add_argument("--schedules", const="quality-schedule", help="vary which steps are dense, at equal work", **const)
    what.add_argument("--precisions", const="quality-precision", help="vary the products' precision", **const)
    parser.add_argument("--providers", nargs="+", default=None, help="only these; of the studies, what varies")
    parser.add_argument("--warm-ups", nargs="+", type=float, default=WARM_UPS, help="shares of the steps that run dense first")
    parser.add_argument("--prompts", type=int, default=len(PROMPTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--frames", type=int, default=13)
    parser.add_argument("--pixels", type=int, default=80)
    parser.add_argument("--steps", type=int, default=10, help="of all rows but those of studies that vary them")
    parser.add_argument("--json", type=Path, default=None, help="file to append one JSON line a row to")
    arguments = parser.parse_args()
    use_tiles(*TILE)
    renderer = Renderer(arguments.frames, arguments.pixels, arguments.prompts, arguments.seeds)
    table = Rows(COLUMNS, arguments.json, "cpu")
    common = {"op": arguments.op, "shape": "tiny_wan", "tokens": renderer.layout.tokens}
    of_op = {"quality": curve_points(arguments.warm_ups), "quality-study": studies(), "quality-schedule": schedules()}
    of_op["quality-precision"] = precisions()
    for job in of_op[arguments.op]:
        if arguments.providers is None or job.provider in arguments.providers:
            named = {"provider": job.provider, "setting": job.setting, "steps": job.steps or arguments.steps}
            named |= {"start_percent": job.start_percent, "end_percent": job.end_percent, "precision": job.precision}
            table.add({**common, **named, **renderer.row(job, arguments.steps)})


if __name__ == "__main__":
    main()
