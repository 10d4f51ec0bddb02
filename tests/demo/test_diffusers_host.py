"""The diffusers adapter: the same numbers as the plain model, dense and with everything chosen."""

from __future__ import annotations

import pytest

pytest.importorskip("diffusers")

import diffusers_host  # noqa: E402
import tiny_wan  # noqa: E402
import torch  # noqa: E402
from moving_shapes import embed, from_latent  # noqa: E402
from render import CHECKPOINT, GUIDANCE, LAYERS, METHODS, Method, Scene  # noqa: E402
from video_quality import psnr  # noqa: E402

SCENE = Scene(prompt=2, seed=3, frames=5, pixels=64, steps=5)


@pytest.fixture(scope="module")
def model():
    return diffusers_host.load_model()


@pytest.fixture(scope="module")
def dense(model):
    return diffusers_host.render(model, SCENE, METHODS[0])


def test_dense_is_the_plain_model(dense):
    noise = torch.randn(SCENE.latent_shape, generator=torch.Generator().manual_seed(SCENE.seed))
    guided = {"no_text": embed(None), "guidance": GUIDANCE, "steps": SCENE.steps}
    latent = tiny_wan.sample(tiny_wan.load(CHECKPOINT), noise, embed(SCENE.prompt), **guided)
    torch.testing.assert_close(dense.video, from_latent(latent)[0], atol=2e-3, rtol=0)


@pytest.mark.parametrize("node, inputs", [("SVGAttention", {"sparsity": 0.0}), ("SVG2Attention", {"top_p": 1.0})])
def test_everything_chosen_is_dense(model, dense, node, inputs):
    render = diffusers_host.render(model, SCENE, Method("all", node, inputs))
    assert render.density == pytest.approx(1)
    torch.testing.assert_close(render.video, dense.video, atol=2e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_each_method_is_sparse_after_the_warm_up(model, dense, method):
    progress = []
    render = diffusers_host.render(model, SCENE, method, lambda *said: progress.append(said))
    assert (render.steps, render.sparse_steps) == (5, 4) and len(progress) == 5
    assert 0 < render.density < 0.9 and 0 < render.attention_s < render.total_s
    assert 10 < psnr(render.video, dense.video) < 80


def test_the_config_names_the_checkpoints_sizes(model):
    assert len(model.blocks) == LAYERS == len(tiny_wan.load(CHECKPOINT).blocks)
