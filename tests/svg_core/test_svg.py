"""SVG's planner against masks built naively from the paper's definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from masks import any_layout, assert_exact, joined, plan_mask, text_rows
from sparse_videogen.kernels.gather_attention import gather_attention
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.svg_core import Call, SparseState, SVGConfig, VideoLayout
from sparse_videogen.svg_core.svg import SPATIAL, TEMPORAL, Band, build_patterns, plan
from sparse_videogen.svg_core.tiles import read_mask, text_plan

LAYOUTS = [
    pytest.param(VideoLayout(5, 6, 7), id="no-text"),
    pytest.param(VideoLayout(5, 6, 7, text_before=11), id="text-before"),
    pytest.param(VideoLayout(5, 6, 7, text_before=3, text_after=21), id="text-both"),
    pytest.param(VideoLayout(1, 9, 11, text_after=5), id="one-frame"),
    pytest.param(VideoLayout(13, 1, 7), id="one-row"),
    pytest.param(VideoLayout(7, 11, 3, text_after=1), id="primes"),
    pytest.param(VideoLayout(1, 1, 1), id="one-token"),
    pytest.param(VideoLayout(5, 6, 7, text_after=9, masked=(212, 215, 218)), id="masked"),
    pytest.param(VideoLayout(5, 6, 7, text_before=4, masked=(0, 1, 2, 3)), id="all-masked"),
]
configs = st.builds(SVGConfig, sparsity=st.floats(0, 0.95), sampled_rows=st.integers(1, 40), first_frame=st.booleans())


def naive_mask(layout: VideoLayout, pattern: int, half_width: int, block_m: int, first_frame: bool):
    """[N, N] bool, row by row: |position - position| <= half_width for some row of the tile, first frame, text."""
    places = [(t, p) for t in range(layout.frames) for p in range(layout.frame_tokens)]
    ordered = sorted(places, key=(lambda x: x) if pattern == SPATIAL else (lambda x: (x[1], x[0])))
    position = torch.tensor([ordered.index(place) for place in places])
    tile = position // block_m
    near = (position[:, None] - position[None]).abs() <= half_width
    video = torch.stack([near[tile == tile[row]].any(0) for row in range(len(places))])
    if first_frame:
        video[:, : layout.frame_tokens] = True
    mask = torch.ones(layout.tokens, layout.tokens, dtype=torch.bool)
    mask[layout.video, layout.video] = video
    mask[:, list(layout.masked)] = False
    return mask


def call_of(config, layout, block_m=16):
    return Call(config, layout, 0.125, block_m, "torch")


def plan_of_text(config, layout, block_m):
    return joined(text_plan(call_of(config, layout, block_m), torch.empty(1, 1, layout.tokens, 64), SparseState()))


def plan_of_pattern(config, layout, pattern, block_m):
    patterns = build_patterns(call_of(config, layout, block_m), torch.device("cpu"), SparseState())
    sets = torch.full((1, 1), pattern, dtype=torch.int32)
    return Plan(sets, patterns.query_index, patterns.key_index, patterns.key_start, patterns.key_count), patterns


@pytest.mark.parametrize("first_frame", [True, False], ids=["first-frame", "no-first-frame"])
@pytest.mark.parametrize("pattern", [SPATIAL, TEMPORAL], ids=["spatial", "temporal"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_matches_masked_attention(layout, pattern, first_frame, make_qkv):
    config, block_m = SVGConfig(sparsity=0.6, first_frame=first_frame), 16
    made, patterns = plan_of_pattern(config, layout, pattern, block_m)
    text = plan_of_text(config, layout, block_m)
    stride = 1 if pattern == SPATIAL else layout.frames
    mask = naive_mask(layout, pattern, Band(config, layout, block_m, stride).half_width, block_m, first_frame)
    assert torch.equal(plan_mask([made, text], layout.tokens)[0, 0], mask)
    assert torch.equal(patterns.windows.masks()[-2:][pattern], mask[patterns.rows])
    q, k, v = make_qkv(layout, heads=1)
    out = gather_attention(q, k, v, made, sm_scale=64**-0.5)
    gather_attention(q, k, v, text, sm_scale=64**-0.5, out=out)
    assert_exact(out, q, k, v, mask)


@pytest.mark.parametrize("pattern", [SPATIAL, TEMPORAL], ids=["spatial", "temporal"])
@pytest.mark.parametrize("sparsity", [0.3, 0.7])
def test_band_is_the_widest_that_the_sparsity_allows(pattern, sparsity):
    layout, block_m, first_frame = VideoLayout(6, 8, 8, text_after=9), 16, True
    config = SVGConfig(sparsity=sparsity, first_frame=first_frame)
    width = Band(config, layout, block_m, 1 if pattern == SPATIAL else layout.frames).half_width
    density = [naive_mask(layout, pattern, w, block_m, first_frame).float().mean() for w in (width, width + 1)]
    assert density[0] <= 1 - sparsity < density[1]


@given(layout=any_layout(), config=configs, block_m=st.sampled_from([1, 16, 32]))
@example(VideoLayout(3, 5, 5, text_after=4), SVGConfig(sparsity=0), 16)
@settings(max_examples=60, deadline=None)
def test_any_layout_gives_a_sound_plan(layout, config, block_m):
    text, read = text_rows(layout), read_mask(layout, torch.device("cpu"), SparseState())
    for pattern in (SPATIAL, TEMPORAL):
        made, _ = plan_of_pattern(config, layout, pattern, block_m)
        plans = [made, plan_of_text(config, layout, block_m)]
        mask = plan_mask(plans, layout.tokens)[0, 0]  # every row in one tile, no key twice
        assert mask[text][:, read].all() and mask[:, text & read].all() and not mask[:, ~read].any()
        assert mask.diagonal()[~text].all() and (config.sparsity > 0 or mask[:, read].all())
        assert sum(part.pairs().item() for part in plans) == mask.sum()


def test_profiling_finds_each_heads_pattern():
    """A head whose keys match by frame is spatial, one whose keys match by place is temporal."""
    frames, side = 8, 8
    layout = VideoLayout(frames, side, side)
    rng = torch.Generator().manual_seed(0)
    by_frame = torch.randn(frames, 1, 64, generator=rng).expand(-1, side * side, -1)
    by_place = torch.randn(1, side * side, 64, generator=rng).expand(frames, -1, -1)
    x = torch.stack([by_frame.flatten(0, 1), by_place.flatten(0, 1)]).unsqueeze(0) * 1.5
    v = torch.randn(x.shape, generator=rng)
    config = SVGConfig(sparsity=0.6, first_frame=False)
    made = joined(plan(x, x, v, call_of(config, layout), SparseState(), None))
    assert made.list_of_head.tolist() == [[SPATIAL, TEMPORAL]]
