"""How a token sequence maps to frames x height x width plus text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoLayout:
    """[text_before | frames x height x width tokens, row-major | text_after].

    Attributes:
        frames, height, width: the grid of video tokens, each >= 1.
        text_before, text_after: tokens that are no video: they read everything, and everything reads them.

    Raises:
        ValueError: a size is out of range.
    """

    frames: int
    height: int
    width: int
    text_before: int = 0
    text_after: int = 0

    def __post_init__(self):
        if min(self.frames, self.height, self.width) < 1 or min(self.text_before, self.text_after) < 0:
            raise ValueError(f"{self}: frames, height and width must be at least 1, text at least 0")

    @property
    def frame_tokens(self) -> int:
        return self.height * self.width

    @property
    def video_tokens(self) -> int:
        return self.frames * self.frame_tokens

    @property
    def text_tokens(self) -> int:
        return self.text_before + self.text_after

    @property
    def tokens(self) -> int:
        return self.video_tokens + self.text_tokens

    @property
    def video(self) -> slice:
        """Where the video tokens stand in the sequence."""
        return slice(self.text_before, self.text_before + self.video_tokens)
