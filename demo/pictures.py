"""Grey videos as pictures: labelled side by side, still and animated."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LABEL_HEIGHT, GAP, FRAME_MS, SCALE = 18, 4, 100, 2
DIFFERENCE_GAIN = 4


def grey(x: Tensor) -> Tensor:
    """[-1, 1] -> uint8."""
    return ((x + 1) * 127.5).round().clamp(0, 255).byte()


def animation(videos: dict[str, Tensor], file: Path, *, reference: str | None = None) -> None:
    """Writes an animated WebP of labelled videos [T, H, W] side by side.

    Args:
        reference: name of one of them; below each other one then stands how far it is from that, times
            DIFFERENCE_GAIN, on grey.
    """
    pages = _pages(videos, reference)
    pages[0].save(file, save_all=True, append_images=pages[1:], duration=FRAME_MS, loop=0, quality=75, method=6)


def still(videos: dict[str, Tensor], file: Path, *, reference: str | None = None, frames: int = 4) -> None:
    """Writes a PNG of evenly spaced frames of the same, one below the other."""
    pages = _pages(videos, reference)
    shown = [pages[i] for i in torch.linspace(0, len(pages) - 1, min(frames, len(pages))).round().long()]
    sheet = Image.new("L", (shown[0].width, sum(page.height for page in shown)), 255)
    for i, page in enumerate(shown):
        sheet.paste(page, (0, i * page.height))
    sheet.save(file, optimize=True)


def _pages(videos: dict[str, Tensor], reference: str | None) -> list[Image.Image]:
    """A page a frame: labels, videos, differences."""
    frames, height, width = next(iter(videos.values())).shape
    column, row = width * SCALE + GAP, height * SCALE + LABEL_HEIGHT + GAP
    rows = 1 if reference is None else 2
    font = ImageFont.load_default(12)
    pages = []
    for t in range(frames):
        page = Image.new("L", (column * len(videos) - GAP, row * rows - GAP), 255)
        draw = ImageDraw.Draw(page)
        for i, (name, video) in enumerate(videos.items()):
            panels = [(name, video[t])]
            if reference is not None and name != reference:
                panels.append((f"difference x {DIFFERENCE_GAIN}", DIFFERENCE_GAIN * (video[t] - videos[reference][t])))
            for line, (label, picture) in enumerate(panels):
                draw.text((i * column + 2, line * row + 2), label, fill=0, font=font)
                image = Image.fromarray(grey(picture).numpy())
                image = image.resize((width * SCALE, height * SCALE), Image.Resampling.BICUBIC)
                page.paste(image, (i * column, line * row + LABEL_HEIGHT))
        pages.append(page)
    return pages
