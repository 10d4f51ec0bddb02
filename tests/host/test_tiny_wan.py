"""The trained tiny model in a real ComfyUI: the demo's renders, and that both hosts agree."""

from __future__ import annotations

import comfy_render
import diffusers_host
import pytest
import torch
from render import METHODS, Scene
from tiny_wan import load
from video_quality import psnr

SCENE = Scene(prompt=2, seed=3, frames=7, pixels=80, steps=10)


@pytest.fixture(scope="module")
def renders(host):
    comfy_render.install_checkpoint(host.server.base_dir)
    return [comfy_render.render(host.server, SCENE, method) for method in METHODS]


def test_dense_agrees_with_diffusers(renders):
    other = diffusers_host.render(load(), SCENE, METHODS[0])
    torch.testing.assert_close(renders[0].video, other.video, atol=2e-3, rtol=0)


def test_the_demo_tells_what_each_method_did(renders):
    dense, *sparse = renders
    assert (dense.density, dense.computed, dense.sparse_steps) == (1.0, 1.0, 0)
    assert dense.video.shape == (7, 80, 80) and dense.video.max() > 0.7
    for method, render in zip(METHODS[1:], sparse, strict=True):
        assert (render.steps, render.sparse_steps) == (10, 8 if method.start_percent else 10)
        assert 0 < render.density <= render.computed < 0.9 and 0 < render.work < 0.9
    assert all(0 < render.attention_s < render.total_s for render in renders)


def test_svg_stays_near_dense(renders):
    dense, svg, *_ = renders
    assert 0 < svg.error < 0.2 and psnr(svg.video, dense.video) > 15


def test_the_choice_by_error_brings_the_video_nearer_to_dense(renders):
    dense, *sparse = renders
    svg, published, by_error, half, no_dense_step = (psnr(render.video, dense.video) for render in sparse)
    assert by_error > max(25, svg + 3, published + 5, half) and half > published and no_dense_step > svg
    assert 0 < sparse[2].error < sparse[3].error < sparse[1].error
