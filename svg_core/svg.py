"""SVG's planner (arXiv 2502.01776, sections 3 and 4): each head is spatial or temporal, found by online profiling.

Both patterns are a band of half-width w, in tokens, in one order of the video tokens: frame after frame
(spatial: the frames around a query's own) or position after position (temporal: nearby positions over all frames).
A tile reads the union of its rows' bands; all rows read the text and, with `first_frame`, the first frame.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from ..kernels.exact_rows import Windows, exact_rows
from ..kernels.pack import pack_lists
from ..kernels.plan import Plan
from .call import Call
from .config import SVGConfig
from .layout import VideoLayout
from .planned import Planned, rows_of_tiles
from .sampling import stratified
from .state import SparseState
from .tiles import read_windows, split_into_tiles, text_keys

NAME = "SVG"
WARMS_UP = False
SPATIAL, TEMPORAL = 0, 1
# Partial results of the rows that profile a head, by head_dim: so many programs run, whatever the shape.
PROFILE_BYTES = 288 << 10


@dataclass(frozen=True)
class Patterns:
    """The two patterns of one layout; P = 2, indexed by SPATIAL and TEMPORAL.

    Attributes:
        query_index: [P, T, M] int32, query_index of the plan.
        rows_of_tiles: [P, T] int32, rows of each tile.
        key_index, key_start, key_count: key lists of the plan.
        rows: [S] int64, query rows that profile a head.
        windows: which keys these rows read; first all that are not masked, if some are.
    """

    query_index: Tensor
    rows_of_tiles: Tensor
    key_index: Tensor
    key_start: Tensor
    key_count: Tensor
    rows: Tensor
    windows: Windows


def plan(q: Tensor, k: Tensor, v: Tensor, call: Call, state: SparseState, key: Hashable) -> Planned:
    """All heads at once, since they share the lists of two patterns: each has the one of lower error on the sampled rows."""
    patterns = state.once(
        (NAME, call.config, call.layout, call.block_m, q.device), lambda: build_patterns(call, q.device, state)
    )
    sampled = exact_rows(q, k, v, patterns.rows, sm_scale=call.sm_scale, windows=patterns.windows, backend=call.backend)
    exact, patterned = sampled[:, :, -3:-2], sampled[:, :, -2:]
    pattern = (patterned - exact).norm(dim=(-2, -1)).argmin(-1).int()
    batch, heads = pattern.shape
    step = min(heads, _together(call, batch))
    sets = patterns.query_index, patterns.key_index, patterns.key_start, patterns.key_count
    groups = [(slice(None), slice(head, head + step)) for head in range(0, heads, step)]
    parts = ((where, Plan(pattern[where], *sets)) for where in groups)
    return Planned(pattern, patterns.rows_of_tiles, patterns.key_count, parts, pattern)


def warm_up(q: Tensor, k: Tensor, call: Call, state: SparseState, key: Hashable) -> None:
    """Nothing is kept from call to call."""


def call_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Bytes that one call allocates at its peak, its output apart, for 16-bit q, k, v: the lists of both patterns.

    And beside them what is needed first to profile the heads, then for queries, keys and values in few bits.
    """
    tiles = -(-call.layout.video_tokens // call.block_m)
    listed = sum(band.listed for band in bands(call))
    quantised = min(heads, _together(call, batch)) * batch * call.quantised_bytes
    return 8 * tiles * call.block_m + 4 * listed + 8 * call.layout.tokens + max(head_dim * PROFILE_BYTES, quantised)


def state_bytes(call: Call, batch: int, heads: int, head_dim: int) -> int:
    """Nothing is kept from call to call."""
    return 0


def can_split(call: Call, batch: int, heads: int) -> bool:
    """All heads share their lists: fewer at a time take less memory only where each brings what is quantised of it."""
    return call.quantised_bytes > 0 and min(heads, _together(call, batch)) > 1


def _together(call: Call, batch: int) -> int:
    """Heads of a batch that are quantised at a time."""
    return max(1, call.workspace_bytes // max(1, batch * call.quantised_bytes))


def note(call: Call) -> None:
    """Every video can have every setting."""


def build_patterns(call: Call, device: torch.device, state: SparseState) -> Patterns:
    """Both patterns' tiles, key lists and profiling windows for one layout."""
    config, layout, block_m = call.config, call.layout, call.block_m
    text = text_keys(layout, device, state)
    video = torch.arange(layout.video_tokens, dtype=torch.int32, device=device)
    position_major = rearrange(video, "(frame position) -> (position frame)", frame=layout.frames)
    rows = stratified(min(config.sampled_rows, layout.video_tokens), layout.video_tokens, device)

    query_index, starts, lengths, key_orders = [], [], [], []
    windows = [read_windows(layout, len(rows), device, state)] if layout.masked else []
    both = bands(call)
    for order, band in zip((video, position_major), both, strict=True):
        key_order = torch.cat([text, _first_frame_first(order, config, layout) + layout.text_before])
        begin, end = (torch.tensor(x, dtype=torch.int32, device=device) for x in band.tile_ranges)
        query_index.append(split_into_tiles(order + layout.text_before, block_m))
        starts.append(torch.stack([torch.zeros_like(begin), begin], -1))
        lengths.append(torch.stack([torch.full_like(begin, band.prefix), end - begin], -1))
        key_orders.append(key_order)

        tile = (order.long().argsort()[rows] // block_m).long()
        rank = torch.full((layout.tokens,), layout.tokens, dtype=torch.int32, device=device)  # masked keys: in no range
        rank[key_order.long()] = torch.arange(len(key_order), dtype=torch.int32, device=device)
        prefix = torch.full((1,), band.prefix, dtype=torch.int32, device=device)
        windows.append(Windows(rank.unsqueeze(0), prefix, begin[tile].unsqueeze(0), end[tile].unsqueeze(0)))

    key_orders, starts, lengths, query_index = (torch.stack(x) for x in (key_orders, starts, lengths, query_index))
    key_count = lengths.sum(-1, dtype=torch.int32)
    listed = sum(band.listed for band in both)
    lists = pack_lists(key_orders, starts, lengths, key_count, capacity=listed, backend=call.backend)
    windows = Windows(*map(torch.cat, zip(*windows, strict=True)))
    return Patterns(query_index, rows_of_tiles(query_index), *lists, key_count, rows + layout.text_before, windows)


def _first_frame_first(order: Tensor, config: SVGConfig, layout: VideoLayout) -> Tensor:
    """Video tokens in a pattern's order, those of the first frame taken to the front where it is protected."""
    if not config.first_frame:
        return order
    return order[(order >= layout.frame_tokens).byte().argsort(stable=True)]


def bands(call: Call) -> list[Band]:
    """Of the spatial and of the temporal pattern."""
    return [Band(call.config, call.layout, call.block_m, stride) for stride in (1, call.layout.frames)]


class Band:
    """The key range of each tile in one order, for the widest band that the density allows.

    Key order is [text | first frame, if protected | the other video tokens in the pattern's order], so what a
    tile reads is the prefix and one range. Plain integers: this runs once a layout.

    Attributes:
        prefix: keys at the front that every tile reads.
        half_width: of the band, in tokens.
        tile_ranges: first and end key position of the range of each tile.
        listed: keys of all lists.
    """

    def __init__(self, config: SVGConfig, layout: VideoLayout, block_m: int, frame_stride: int):
        self.layout, self.block_m, self.frame_stride = layout, block_m, frame_stride
        self.first_frame = config.first_frame
        self.prefix = layout.text_keys + (layout.frame_tokens if config.first_frame else 0)
        self.half_width = self._widest(1 - config.sparsity)
        self.tile_ranges = self._ranges(self.half_width)
        self.listed = sum(self.prefix + end - begin for begin, end in zip(*self.tile_ranges, strict=True))

    def _ranges(self, half_width: int) -> tuple[list[int], list[int]]:
        n, begin, end = self.layout.video_tokens, [], []
        for row in range(0, n, self.block_m):
            begin.append(self._key_position(max(0, row - half_width)))
            end.append(self._key_position(min(n, row + self.block_m + half_width)))
        return begin, end

    def _key_position(self, position: int) -> int:
        """Position in the pattern's order -> in the key order, from which the first frame was taken out."""
        if not self.first_frame:
            return self.prefix + position
        if self.frame_stride == 1:
            return self.prefix + max(0, position - self.layout.frame_tokens)
        return self.prefix + position - -(-position // self.frame_stride)

    def _density(self, half_width: int) -> float:
        n, total = self.layout.video_tokens, self.layout.tokens
        pairs = self.layout.text_tokens * (n + self.layout.text_keys)
        for row, begin, end in zip(range(0, n, self.block_m), *self._ranges(half_width), strict=True):
            pairs += min(self.block_m, n - row) * (self.prefix + end - begin)
        return pairs / total**2

    def _widest(self, density: float) -> int:
        low, high = 0, self.layout.video_tokens
        if self._density(high) <= density:
            return high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._density(middle) <= density else (low, middle)
        return low
