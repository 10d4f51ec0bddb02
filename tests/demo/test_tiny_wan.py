"""The committed model: it draws what its prompts say, in shapes that hosts know."""

from __future__ import annotations

import pytest
import torch
from moving_shapes import PROMPTS, clips, embed, to_latent
from render import CHECKPOINT, LAYERS
from safetensors.torch import load_file
from tiny_shapes import wan
from tiny_wan import load, original_names, sample

SIGMAS = (0.3, 0.6, 0.9)


@pytest.fixture(scope="module")
def model():
    return load()


def test_the_file_is_small_and_named_as_wan():
    assert CHECKPOINT.stat().st_size <= 12e6
    assert load_file(CHECKPOINT).keys() == wan(16, layers=LAYERS).keys()


def test_what_is_loaded_is_saved_under_the_same_names(model):
    saved = load_file(CHECKPOINT)
    weights = original_names(model.state_dict())
    assert weights.keys() == saved.keys() and all(torch.equal(weights[name], saved[name].float()) for name in saved)


@torch.no_grad()
def denoising_error(model, sigma: float, prompt_of=lambda prompt: prompt) -> float:
    """Mean squared error of the clean clip that the model sees in a noisy one, over all prompts."""
    rng, errors = torch.Generator().manual_seed(5), []
    for prompt in range(len(PROMPTS)):
        clean = to_latent(clips([prompt], 5, 64, 64, rng))
        noise = torch.randn(clean.shape, generator=rng)
        noisy = torch.lerp(clean, noise, sigma)
        (velocity,) = model(noisy, torch.tensor([1000 * sigma]), embed(prompt_of(prompt)), return_dict=False)
        errors.append((noisy - sigma * velocity - clean).square().mean().item())
    return sum(errors) / len(errors)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_it_sees_through_noise(model, sigma):
    # The clips' variance is 0.16: who knows nothing of them errs by that at sigma 1.
    assert denoising_error(model, sigma) < {0.3: 0.012, 0.6: 0.04, 0.9: 0.15}[sigma]


def test_the_prompt_matters(model):
    assert denoising_error(model, 0.9) < 0.97 * denoising_error(model, 0.9, lambda prompt: (prompt + 1) % len(PROMPTS))


def test_samples_have_the_contrast_of_clips(model):
    video = sample(model, [0], 5, 64, 10)
    assert video.min() < -0.7 and video.max() > 0.7
    assert ((video > -1.3) & (video < 1.3)).float().mean() > 0.99
