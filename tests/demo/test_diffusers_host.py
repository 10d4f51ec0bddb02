"""The diffusers adapter: the same numbers as the model's own attention, dense and with everything chosen."""

from __future__ import annotations

import diffusers_host
import pytest
import torch
from render import METHODS, Method, Scene
from sparse_videogen.svg_core import SVG2Config, VideoLayout
from tiny_wan import load, sample
from video_quality import psnr

EVERYTHING = [("SVG2Attention", {"density": 1.0}), ("SVG2Attention", {"choose_by": "top_p", "top_p": 1.0})]
SCENE = Scene(prompt=2, seed=3, frames=5, pixels=64, steps=5)


@pytest.fixture(scope="module")
def model():
    return load()


@pytest.fixture(scope="module")
def dense(model):
    return diffusers_host.render(model, SCENE, METHODS[0])


def test_dense_is_the_models_own(dense):
    (video,) = sample(load(), [SCENE.prompt], SCENE.frames, SCENE.pixels, SCENE.steps, SCENE.seed)
    torch.testing.assert_close(dense.video, video, atol=2e-3, rtol=0)


@pytest.mark.parametrize("node, inputs", [("SVGAttention", {"sparsity": 0.0}), *EVERYTHING])
def test_everything_chosen_is_dense(model, dense, node, inputs):
    render = diffusers_host.render(model, SCENE, Method("all", node, inputs))
    assert render.density == pytest.approx(1)
    torch.testing.assert_close(render.video, dense.video, atol=2e-3, rtol=0)


def test_a_run_is_sparse_between_its_start_and_its_end():
    config = SVG2Config(density=0.5, density_start=1.5, q_clusters=2, k_clusters=16)
    run = diffusers_host.Run(config, VideoLayout(3, 8, 8), 5, 0.2, conditionings=1, end_percent=0.6)
    q, k, v = torch.randn(3, 1, 2, 192, 64, generator=torch.Generator().manual_seed(0))
    sparse = []
    for run.step in range(5):
        run.attend(0, q, k, v)
        sparse.append(len(run.stats))
    assert sparse == [0, 1, 2, 3, 3]  # steps that begin at 0.2, 0.4 and, on the border, at 0.6
    densities = [stats.density.mean().item() for stats in run.stats]
    assert densities[0] > densities[1] > densities[2]


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_each_method_is_sparse_after_its_dense_steps(model, dense, method):
    render = diffusers_host.render(model, SCENE, method)
    sparse_steps = 4 if method.start_percent else 5
    assert (render.steps, render.sparse_steps) == (5, sparse_steps)
    assert 0 < render.density < 0.9 and 0 < render.attention_s < render.total_s
    assert render.work == pytest.approx((5 - sparse_steps + sparse_steps * render.density) / 5)
    assert 10 < psnr(render.video, dense.video) < 80
