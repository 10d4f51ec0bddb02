"""How near a video is to another: PSNR, SSIM and how its frames change."""

from __future__ import annotations

import math

from torch import Tensor

RANGE = 2.0  # of grey values in [-1, 1]


def psnr(video: Tensor, reference: Tensor) -> float:
    """10 log10(range^2 / mean squared error) over all of [..., H, W], in dB; infinite for equal videos."""
    error = (video.clamp(-1, 1) - reference.clamp(-1, 1)).double().square().mean().item()
    return 10 * math.log10(RANGE**2 / error) if error else math.inf


def ssim(video: Tensor, reference: Tensor) -> float:
    """Mean structural similarity of the frames of [T, H, W], in [-1, 1] (7 x 7 windows)."""
    from skimage.metrics import structural_similarity

    a, b = (x.clamp(-1, 1).numpy() for x in (video, reference))
    return float(structural_similarity(a, b, data_range=RANGE, channel_axis=0))


def change_error(video: Tensor, reference: Tensor) -> float:
    """Relative L2 error of the changes from frame to frame of [T, H, W], ||dx - dy|| / ||dy||: flicker adds to it.

    An error that stays the same in all frames counts nothing; infinite where the reference stands still and the video does not.
    """
    change, expected = (x.clamp(-1, 1).double().diff(dim=0) for x in (video, reference))
    error, size = (change - expected).norm().item(), expected.norm().item()
    return error / size if size else math.inf if error else 0.0
