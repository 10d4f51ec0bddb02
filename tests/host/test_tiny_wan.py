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
    for render in sparse:
        assert (render.steps, render.sparse_steps) == (10, 8)
        assert 0 < render.density <= render.computed < 0.9
    assert all(0 < render.attention_s < render.total_s for render in renders)


def test_svg_stays_near_dense(renders):
    dense, svg, *_ = renders
    assert 0 < svg.error < 0.2 and psnr(svg.video, dense.video) > 15


def test_the_tail_brings_the_video_nearer_to_dense(renders):
    dense, _, without_tail, with_tail = renders
    assert with_tail.density == pytest.approx(without_tail.density, abs=0.03)
    assert 0 < with_tail.error < 0.6 * without_tail.error
    assert psnr(with_tail.video, dense.video) > max(20, psnr(without_tail.video, dense.video) + 1)
