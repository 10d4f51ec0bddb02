"""Drawing on a canvas that is read at node size: heat maps, bars, lines and text, with PIL alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SCALE = 2  # drawn larger and made smaller at the end: smooth lines
BACKGROUND, INK, MUTED, GRID, NONE = "#16181d", "#e8eaed", "#9aa0a8", "#3a3f47", "#565b64"
SERIES = ("#5ec962", "#4aa3df", "#f2a65a")
# Viridis less its ends, as on the node's panel.
COLOURS = np.array([(72, 40, 120), (49, 104, 142), (31, 158, 137), (94, 201, 98), (190, 223, 38)], dtype=float)
Box = tuple[int, int, int, int]  # left, top, right, bottom
Values = Sequence[float | None]


class Canvas:
    """A picture in the making; places and sizes in pixels of the result."""

    def __init__(self, width: int, height: int):
        self._image = Image.new("RGB", (width * SCALE, height * SCALE), BACKGROUND)
        self._draw = ImageDraw.Draw(self._image)

    def tensor(self) -> Tensor:
        """The picture as ComfyUI has images, [1, H, W, 3] in [0, 1]."""
        size = (self._image.width // SCALE, self._image.height // SCALE)
        picture = np.asarray(self._image.resize(size, Image.Resampling.LANCZOS), dtype=np.float32)
        return torch.from_numpy(picture / 255).unsqueeze(0)

    def text(self, x: float, y: float, text: str, *, size: int = 20, colour: str = INK, anchor: str = "la") -> None:
        """A line of text; `anchor` as PIL has it."""
        self._draw.text((x * SCALE, y * SCALE), text, fill=colour, font=_font(size), anchor=anchor)

    def paragraph(self, box: Box, lines: Sequence[str], *, size: int = 20, colour: str = INK) -> None:
        """Lines, wrapped to the box; what does not fit is cut off with an ellipsis."""
        left, top, right, bottom = box
        rows = [row for line in lines for row in self._wrapped(line, right - left, size)]
        room = (bottom - top) // (size + 8)
        if len(rows) > room:
            rows = [*rows[: room - 1], rows[room - 1] + " ..."]
        for i, row in enumerate(rows):
            self.text(left, top + i * (size + 8), row, size=size, colour=colour)

    def heat_map(self, box: Box, matrix: Sequence[Values], *, title: str, form: str) -> None:
        """Rows downwards, columns to the right, grey where there is no value, with the scale of its colours.

        Args:
            matrix: a list a row, all of one length.
            form: of the figures at the scale, like "{:.2f}".
        """
        left, top, right, bottom = self._panel(box, title, "step", "layer")
        values = np.array([[math.nan if value is None else value for value in row] for row in matrix], dtype=float)
        known = values[np.isfinite(values)]
        high = float(known.max()) if known.size and known.max() > 0 else 1.0
        picture = np.where(np.isfinite(values)[..., None], _colour(values / high), _rgb(NONE)).astype(np.uint8)
        size = ((right - left) * SCALE, (bottom - top) * SCALE)
        picture = Image.fromarray(picture).resize(size, Image.Resampling.NEAREST)
        self._image.paste(picture, (left * SCALE, top * SCALE))
        self._numbers(left, right, bottom, values.shape[1])
        self._rows(left, top, bottom, values.shape[0])

        strip = Image.fromarray(_colour(np.linspace(0, 1, 160)[None]).astype(np.uint8))
        x, y = right - 240, box[1] + 8
        self._image.paste(strip.resize((160 * SCALE, 14 * SCALE)), ((x + 30) * SCALE, y * SCALE))
        self.text(x + 22, y + 7, "0", size=16, colour=MUTED, anchor="rm")
        self.text(x + 198, y + 7, form.format(high), size=16, colour=MUTED, anchor="lm")
        self._draw.rectangle([c * SCALE for c in (x - 84, y, x - 70, y + 14)], fill=NONE)
        self.text(x - 64, y + 7, "dense", size=16, colour=MUTED, anchor="lm")

    def bars(self, box: Box, values: Values, *, title: str, unit: str, rest: str | None = None) -> None:
        """A bar a layer, of shares in [0, 1]; `rest` names what the rest of the bar stands for, if anything."""
        left, top, right, bottom = self._panel(box, title, "layer", unit)
        step = (right - left) / max(1, len(values))
        for i, value in enumerate(values):
            x0, x1 = left + i * step, left + (i + 1) * step - min(4, step * 0.2)
            middle = bottom - (value or 0) * (bottom - top)
            if rest is not None or value is None:
                colour = NONE if value is None else SERIES[1]
                self._draw.rectangle([c * SCALE for c in (x0, top, x1, bottom)], fill=colour)
            if value is not None:
                self._draw.rectangle([c * SCALE for c in (x0, middle, x1, bottom)], fill=SERIES[0])
        self._shares(left, top, bottom)
        self._numbers(left, right, bottom, len(values))
        legend = [(unit, SERIES[0]), *([] if rest is None else [(rest, SERIES[1])])]
        self._legend(right, box[1] + 8, legend)

    def lines(self, box: Box, values: Values, *, title: str, colour: str, mean: str) -> None:
        """A line over frames, infinite values left out; `mean` is written at the right."""
        left, top, right, bottom = self._panel(box, title, "frame", "")
        known = [value for value in values if value is not None and math.isfinite(value)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        margin = max((high - low) * 0.1, 1e-3 * max(abs(high), 1.0))
        low, high = low - margin, high + margin
        for share in (0, 0.5, 1):
            y = bottom - share * (bottom - top)
            self._draw.line([c * SCALE for c in (left, y, right, y)], fill=GRID, width=SCALE)
            self.text(left - 8, y, f"{low + share * (high - low):.4g}", size=16, colour=MUTED, anchor="rm")
        step = (right - left) / max(1, len(values) - 1)
        points = [
            ((left + i * step) * SCALE, (bottom - (value - low) / (high - low) * (bottom - top)) * SCALE)
            for i, value in enumerate(values)
            if value is not None and math.isfinite(value)
        ]
        if len(points) > 1:
            self._draw.line(points, fill=colour, width=3 * SCALE, joint="curve")
        for x, y in points if len(points) < 40 else ():
            self._draw.ellipse([x - 4 * SCALE, y - 4 * SCALE, x + 4 * SCALE, y + 4 * SCALE], fill=colour)
        self._numbers(left, right, bottom, len(values), at_ends=True)
        self.text(right, box[1] + 2, mean, size=22, anchor="ra")

    def _panel(self, box: Box, title: str, below: str, beside: str) -> Box:
        """Title and names of the axes; returns the plot's own box."""
        left, top, right, bottom = box
        self.text(left, top, title, size=22)
        self.text((left + 70 + right) / 2, bottom, below, size=16, colour=MUTED, anchor="md")
        self.text(left, top + 40, beside if below == "step" else "", size=16, colour=MUTED)
        return left + 70, top + 40, right, bottom - 46

    def _numbers(self, left: int, right: int, bottom: int, count: int, at_ends: bool = False) -> None:
        """Numbers of columns below the plot: the first, the last and some between, from 0."""
        for i in _ticks(count):
            place = i / max(1, count - 1) if at_ends else (i + 0.5) / max(1, count)
            self.text(left + place * (right - left), bottom + 6, str(i), size=16, colour=MUTED, anchor="ma")

    def _rows(self, left: int, top: int, bottom: int, count: int) -> None:
        for i in _ticks(count):
            self.text(left - 8, top + (i + 0.5) / count * (bottom - top), str(i), size=16, colour=MUTED, anchor="rm")

    def _shares(self, left: int, top: int, bottom: int) -> None:
        for share in (0, 0.5, 1):
            y = bottom - share * (bottom - top)
            self.text(left - 8, y, f"{share:.0%}", size=16, colour=MUTED, anchor="rm")

    def _legend(self, right: int, y: int, entries: list[tuple[str, str]]) -> None:
        for name, colour in reversed(entries):
            width = _font(16).getlength(name) / SCALE
            self.text(right, y + 7, name, size=16, colour=MUTED, anchor="rm")
            self._draw.rectangle([c * SCALE for c in (right - width - 22, y, right - width - 8, y + 14)], fill=colour)
            right -= width + 44

    def _wrapped(self, line: str, width: int, size: int) -> list[str]:
        rows = [""]
        for word in line.split():
            longer = f"{rows[-1]} {word}".strip()
            if rows[-1] and _font(size).getlength(longer) > width * SCALE:
                rows.append("   " + word)
            else:
                rows[-1] = longer
        return rows


def _font(size: int):
    return ImageFont.load_default(size * SCALE)


def _ticks(count: int) -> list[int]:
    """At most six numbers below `count`, evenly spaced, 0 among them."""
    step = max(1, math.ceil(count / 6))
    return list(range(0, count, step))


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=float)


def _colour(shares: np.ndarray) -> np.ndarray:
    """Colours [..., 3] of values in [0, 1]; of NaN any."""
    place = np.clip(np.nan_to_num(shares), 0, 1) * (len(COLOURS) - 1)
    return np.stack([np.interp(place, np.arange(len(COLOURS)), channel) for channel in COLOURS.T], -1)
