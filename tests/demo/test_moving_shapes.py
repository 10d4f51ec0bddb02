"""The procedural scene: exact latents, deterministic clips, what the prompts say."""

from __future__ import annotations

import pytest
import torch
from moving_shapes import MEAN, PROMPTS, STD, clips, embed, from_host_latent, from_latent, seed_of, to_latent


def make(prompt: int = 0, seed: int = 0, frames: int = 5, height: int = 96, width: int = 80):
    return clips([prompt], frames, height, width, torch.Generator().manual_seed(seed))


def test_latents_hold_the_pixels_of_their_squares_and_decode_exactly():
    video = make()
    latent = to_latent(video)
    assert latent.shape == (1, 16, 5, 24, 20)
    assert torch.equal(latent[0, :, 0, 0, 1], video[0, 0, :4, 4:8].flatten())
    assert torch.equal(from_latent(latent), video)


def test_what_a_host_hands_over_decodes_to_the_same_video():
    video = make()
    mean, std = (torch.tensor(x).view(1, 16, 1, 1, 1) for x in (MEAN, STD))
    torch.testing.assert_close(from_host_latent(to_latent(video) * std + mean), video, atol=1e-5, rtol=0)


@pytest.mark.parametrize("prompt", range(len(PROMPTS)))
def test_clips_are_in_range_and_move(prompt):
    video = make(prompt)[0]
    assert video.min() >= -1 and video.max() <= 1
    extremes = {shape.grey for shape in PROMPTS[prompt].shapes if abs(shape.grey) > 0.5}
    assert all((video - grey).abs().amin() < 1e-3 for grey in extremes)
    assert all((a - b).abs().mean() > 0.01 for a, b in zip(video[:-1], video[1:], strict=True))


def test_the_seed_places_the_shapes():
    assert torch.equal(make(seed=1), make(seed=1))
    assert not torch.equal(make(seed=1), make(seed=2))


def test_shapes_stay_in_the_picture():
    video = make(0, frames=200)[0]
    black = video < -0.8
    assert (black.flatten(1).any(1) | (video > 0.8).flatten(1).any(1)).all()
    assert not black[:, :, -1].all(1).any()


def test_every_prompt_has_its_own_text():
    texts = [embed(prompt) for prompt in (*range(len(PROMPTS)), None)]
    assert all(text.shape == (1, 8, 4096) for text in texts)
    assert len({seed_of(prompt) for prompt in (*range(len(PROMPTS)), None)}) == len({text.sum().item() for text in texts}) == 9


def test_rejects_what_it_cannot_draw():
    with pytest.raises(ValueError, match="prompt 8: there are 0 to 7"):
        embed(8)
    with pytest.raises(ValueError, match="32 pixels hold no shape of radius 20"):
        make(3, height=32, width=32)
