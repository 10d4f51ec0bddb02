"""How a token sequence maps to frames x height x width plus text."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class VideoLayout:
    """[text_before | frames x height x width tokens, row-major | text_after].

    Attributes:
        frames, height, width: the grid of video tokens, each >= 1.
        text_before, text_after: tokens that are no video: they read everything, and everything reads them.
        masked: rising positions in the sequence of text tokens that nothing reads; as queries they count.

    Raises:
        ValueError: a size is out of range, or a masked token is no text.
    """

    frames: int
    height: int
    width: int
    text_before: int = 0
    text_after: int = 0
    masked: tuple[int, ...] = ()

    def __post_init__(self):
        if min(self.frames, self.height, self.width) < 1 or min(self.text_before, self.text_after) < 0:
            raise ValueError(f"{self}: frames, height and width must be at least 1, text at least 0")
        wrong = [i for i in self.masked if not 0 <= i < self.tokens or self.video.start <= i < self.video.stop]
        if wrong or list(self.masked) != sorted(set(self.masked)):
            raise ValueError(f"masked={self.masked}: must be rising positions of text, {wrong or 'in order'}")

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
    def text_keys(self) -> int:
        """Text tokens that are read."""
        return self.text_tokens - len(self.masked)

    @property
    def tokens(self) -> int:
        return self.video_tokens + self.text_tokens

    @property
    def video(self) -> slice:
        """Where the video tokens stand in the sequence."""
        return slice(self.text_before, self.text_before + self.video_tokens)
