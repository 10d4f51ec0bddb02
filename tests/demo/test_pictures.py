"""Pictures and what is measured of them."""

from __future__ import annotations

import math

import pictures
import pytest
import torch
from moving_shapes import clips
from PIL import Image
from video_quality import change_error, psnr, ssim


@pytest.fixture
def video():
    return clips([0], 4, 64, 64, torch.Generator().manual_seed(0))[0]


def test_psnr_of_known_errors(video):
    dark = video.clamp(-0.8, 0.8)
    assert psnr(video, video) == math.inf
    assert psnr(dark + 0.1, dark) == pytest.approx(20 * math.log10(2 / 0.1), abs=1e-3)


def test_ssim_falls_with_noise(video):
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert ssim(video, video) == pytest.approx(1)
    assert 1 > ssim(video + 0.05 * noise, video) > ssim(video + 0.2 * noise, video) > 0


def test_change_error_of_known_errors(video):
    moving, flicker = (torch.tensor(grey).view(3, 1, 1) for grey in ([-0.4, 0.0, 0.4], [0.1, -0.1, 0.1]))
    still = torch.zeros(3, 1, 1)
    assert change_error(moving + 0.1, moving) == pytest.approx(0, abs=1e-6)
    assert change_error(moving + flicker, moving) == pytest.approx(0.2 / 0.4)
    assert change_error(still, moving) == pytest.approx(1)
    assert change_error(still, still) == 0 and change_error(moving, still) == math.inf
    noise = 0.05 * torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    assert change_error(video + noise, video) > 2 * change_error(video + noise[:1], video)


def test_an_animation_shows_every_frame_of_every_video(video, tmp_path):
    file = tmp_path / "a.webp"
    pictures.animation({"dense": video, "other": -video}, file, reference="dense")
    with Image.open(file) as image:
        assert image.n_frames == len(video)
        assert image.size == (2 * 128 + pictures.GAP, 2 * (128 + pictures.LABEL_HEIGHT) + pictures.GAP)


def test_a_still_is_as_large_as_what_it_holds(video, tmp_path):
    pictures.still({"dense": video}, tmp_path / "s.png", frames=2)
    with Image.open(tmp_path / "s.png") as still:
        assert still.size == (128, 2 * (128 + pictures.LABEL_HEIGHT))
        assert abs(still.getpixel((1, pictures.LABEL_HEIGHT + 1)) - int(pictures.grey(video)[0, 0, 0])) < 30
