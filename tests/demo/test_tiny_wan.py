"""The committed model: it draws what its prompts say, in shapes that hosts know."""

from __future__ import annotations

import pytest
import tiny_wan
import torch
from moving_shapes import CELL, PROMPTS, clips, embed, from_latent, to_latent
from render import CHECKPOINT
from tiny_checkpoints import wan

SIGMAS = (0.3, 0.6, 0.9)


@pytest.fixture(scope="module")
def model():
    return tiny_wan.load(CHECKPOINT)


def test_the_file_is_small_and_named_as_wan(model):
    assert CHECKPOINT.stat().st_size <= 12e6
    assert model.state_dict().keys() == wan(16, layers=model.size.layers).keys()


@torch.no_grad()
def denoising_error(model, sigma: float, prompt_of=lambda prompt: prompt) -> float:
    """Mean squared error of the clean clip that the model sees in a noisy one, over all prompts."""
    rng, errors = torch.Generator().manual_seed(5), []
    for prompt in range(len(PROMPTS)):
        clean = to_latent(clips([prompt], 5, 64, 64, rng))
        noise = torch.randn(clean.shape, generator=rng)
        noisy = torch.lerp(clean, noise, sigma)
        velocity = model(noisy, torch.tensor([1000 * sigma]), embed(prompt_of(prompt)))
        errors.append((noisy - sigma * velocity - clean).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_it_sees_through_noise(model, sigma):
    # The clips' variance is 0.16: who knows nothing of them errs by that at sigma 1.
    assert denoising_error(model, sigma) < {0.3: 0.012, 0.6: 0.04, 0.9: 0.15}[sigma]


def test_the_prompt_matters(model):
    assert denoising_error(model, 0.9) < 0.97 * denoising_error(model, 0.9, lambda prompt: (prompt + 1) % len(PROMPTS))


def test_samples_have_the_contrast_of_clips(model):
    noise = torch.randn(1, 16, 5, 64 // CELL, 64 // CELL, generator=torch.Generator().manual_seed(0))
    video = from_latent(tiny_wan.sample(model, noise, embed(0), steps=10))
    assert video.min() < -0.7 and video.max() > 0.7
    assert ((video > -1.3) & (video < 1.3)).float().mean() > 0.99


def test_another_attention_takes_the_place_of_its_own(model):
    seen = []
    x = torch.randn(1, 16, 3, 8, 8)
    with torch.no_grad():
        own = model(x, torch.tensor([500.0]), embed(0))
        for block in model.blocks:
            block.self_attn.attend = lambda q, k, v: (
                seen.append(q.shape) or torch.nn.functional.scaled_dot_product_attention(q, k, v)
            )
        replaced = model(x, torch.tensor([500.0]), embed(0))
    assert seen == [(1, 2, 48, 128)] * len(model.blocks) and torch.equal(own, replaced)
