"""What a node was set to, validated."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import ModuleType

from ..kernels import BACKENDS, PRECISIONS
from ..svg_core import METHODS, SVG2Config, SVGConfig

DENSE_ATTENTION = ("previous", "host")
MAX_BLOCK = 999
SHOWN = 40  # characters of a wrong value


@dataclass(frozen=True)
class Settings:
    """One node's settings.

    Attributes:
        config: the method and its own settings.
        start_percent, end_percent: part of the schedule that runs sparse, 0 <= start < end <= 1.
        dense_blocks: layers that stay dense.
        min_tokens: shorter sequences stay dense.
        max_error: heads whose measured error is above are computed in full; 0 lets all pass.
        backend: "auto", "triton" or "torch".
        dense_attention: who computes the video's self-attention where it stays dense: the "previous" override, if another
            node put one on the model, or the "host" alone.
        precision: of the sparse calls' products, one of `PRECISIONS`; the nearest finer one runs where it cannot.
        verbose: log one line a sparse call, with its measured error.
        node_id: the node in the workflow, for messages to the page.

    Raises:
        ValueError: names the input, its value and what is allowed.
    """

    config: SVGConfig | SVG2Config
    start_percent: float = 0.20
    end_percent: float = 1.0
    dense_blocks: frozenset[int] = field(default_factory=frozenset)
    min_tokens: int = 8192
    max_error: float = 0.0
    backend: str = "auto"
    dense_attention: str = "previous"
    verbose: bool = False
    precision: str = PRECISIONS[0]
    node_id: str | None = None

    def __post_init__(self):
        if not 0 <= self.start_percent < self.end_percent <= 1:
            raise ValueError(
                f"start_percent={self.start_percent}, end_percent={self.end_percent}: "
                "start_percent must be below end_percent, both between 0 and 1"
            )
        if self.backend not in BACKENDS:
            raise ValueError(f"backend={self.backend!r}: must be one of {', '.join(BACKENDS)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision!r}: must be one of {', '.join(PRECISIONS)}")
        if self.dense_attention not in DENSE_ATTENTION:
            raise ValueError(f"dense_attention={self.dense_attention!r}: must be one of {', '.join(DENSE_ATTENTION)}")
        if self.min_tokens < 0:
            raise ValueError(f"min_tokens={self.min_tokens}: must be at least 0")
        if not 0 <= self.max_error <= 1:
            raise ValueError(f"max_error={self.max_error}: must be between 0 (no limit) and 1")

    @classmethod
    def of(cls, config_class: type[SVGConfig] | type[SVG2Config], values: dict, node_id: str | None) -> Settings:
        """Settings from a node's widgets, by name."""
        values = values | {"dense_blocks": parse_blocks(values["dense_blocks"])}
        config = {name: values.pop(name) for name in config_class.__dataclass_fields__ if name in values}
        return cls(config_class(**config), **values, node_id=node_id)

    @property
    def planner(self) -> ModuleType:
        """The method's module in the core."""
        return METHODS[type(self.config)]

    @property
    def method(self) -> str:
        """Its name, as users read it."""
        return self.planner.NAME


def parse_blocks(text: str) -> frozenset[int]:
    """ "0, 1, 38-39" -> {0, 1, 38, 39}; empty text is no block.

    Raises:
        ValueError: a part is neither a number nor a rising range, or above `MAX_BLOCK`.
    """
    blocks: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,9})(?:\s*-\s*(\d{1,9}))?", part)  # int() refuses thousands of digits in its own words
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last <= MAX_BLOCK:
            raise ValueError(
                f"dense_blocks={_shown(text)}: {_shown(part)} must be a block number or a range like 38-39, at most {MAX_BLOCK}"
            )
        blocks.update(range(first, last + 1))
    return frozenset(blocks)


def _shown(text: str) -> str:
    return repr(text if len(text) <= SHOWN else f"{text[:SHOWN]}...")


def describe_blocks(blocks: frozenset[int]) -> str:
    """The inverse of `parse_blocks`: {0, 1, 38, 39} -> "0-1, 38-39"."""
    ordered = sorted(blocks)
    first = [block for block in ordered if block - 1 not in blocks]
    last = [block for block in ordered if block + 1 not in blocks]
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in zip(first, last, strict=True))
