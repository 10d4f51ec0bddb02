"""SVG2's planner against choices made naively from labels and top-p."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import any_layout, assert_exact, joined, masked_attention, plan_mask, text_rows
from scene import video_qkv
from sparse_videogen.kernels.gather_attention import gather_attention
from sparse_videogen.svg_core import Call, SparseState, SVG2Config, VideoLayout, sparse_attention, warm_up
from sparse_videogen.svg_core.clusters import update_clusters
from sparse_videogen.svg_core.svg2 import plan
from sparse_videogen.svg_core.tiles import read_mask, text_plan

LAYOUT = VideoLayout(4, 8, 8)


def make_plan(q, k, v, config, layout, block_m=16):
    """The plans of all heads for the video and for the text, attention by them, and the clusters they were made from."""
    call, out, made = Call(config, layout, q.shape[-1] ** -0.5, block_m, "torch"), torch.empty_like(q), []
    for planned in (plan(q, k, v, call, SparseState(), 0), text_plan(call, q, SparseState())):
        planned = replace(planned, parts=list(planned.parts))
        for where, part in planned.parts:
            gather_attention(q[where], k[where], v[where], part, sm_scale=call.sm_scale, out=out[where])
        made.append(joined(planned))
        assert torch.equal(made[-1].pairs(), planned.pairs())
        types = {name: x.dtype for name, x in vars(made[-1]).items() if x is not None}  # others would compile another kernel
        assert types.pop("key_start") == torch.int64 and set(types.values()) == {torch.int32}
        assert planned.rows.dtype == planned.key_count.dtype == torch.int32
    clusters, _ = update_clusters(q, k, call, None, final=True)
    return made, out, clusters


def naive_mask(q, k, clusters, config, layout, made, batch=0, head=0):
    """[N, N] bool, tile by tile, from labels alone: means, sizes, mixture of the rows' distributions, top-p."""
    q, k = q[batch, head, layout.video], k[batch, head, layout.video]
    q_labels, k_labels = clusters.queries.labels[batch, head].long(), clusters.keys.labels[batch, head].long()
    n_k = clusters.keys.cluster_sizes.shape[2]
    used = [c for c in range(n_k) if (k_labels == c).any()]
    score = torch.full((clusters.queries.cluster_sizes.shape[2], n_k), -math.inf)
    for a in q_labels.unique().tolist():
        for c in used:
            logit = q[q_labels == a].mean(0) @ k[k_labels == c].mean(0) * q.shape[-1] ** -0.5
            score[a, c] = logit + math.log((k_labels == c).sum())
    probs = score.softmax(-1)
    mask = torch.ones(layout.tokens, layout.tokens, dtype=torch.bool)
    for rows in made.query_index[head + batch * made.list_of_head.shape[1]]:
        rows = rows[rows >= 0].long() - layout.text_before
        assert config.tile_cut == "full" or q_labels[rows].unique().numel() <= 1
        mass = probs[q_labels[rows]].mean(0)
        keep, total = set(), 0.0
        for c in mass.argsort(descending=True, stable=True).tolist():
            if total >= config.top_p and len(keep) >= math.ceil(config.min_keep * n_k):
                break
            keep.add(c)
            total += mass[c].item()
        reads = torch.tensor([label in keep for label in k_labels.tolist()])
        mask[rows + layout.text_before, layout.video.start : layout.video.stop] = reads
    mask[:, list(layout.masked)] = False
    return mask


@pytest.mark.parametrize("tile_cut", ["full", "cluster"])
@pytest.mark.parametrize(
    "layout",
    [
        VideoLayout(4, 7, 9),
        VideoLayout(3, 7, 7, text_before=5, text_after=18),
        VideoLayout(1, 8, 13, text_after=2),
        VideoLayout(3, 7, 7, text_before=5, text_after=18, masked=(1, 2, 160)),
    ],
    ids=["no-text", "text-both", "one-frame", "masked"],
)
def test_matches_masked_attention(layout, tile_cut):
    q, k, v = video_qkv(layout.frames, layout.height, layout.width, heads=2, head_dim=64, text=layout.text_tokens)
    config = SVG2Config(choose_by="top_p", top_p=0.7, min_keep=0.05, q_clusters=9, k_clusters=17, tail="off", tile_cut=tile_cut)
    made, out, clusters = make_plan(q, k, v, config, layout)
    mask = plan_mask(made, layout.tokens)
    for head in range(2):
        assert torch.equal(mask[0, head], naive_mask(q, k, clusters, config, layout, made[0], head=head))
    assert mask.float().mean() < 0.9
    assert_exact(out, q, k, v, mask)


@given(
    layout=any_layout(),
    clusters=st.tuples(st.integers(1, 40), st.integers(1, 60)),
    top_p=st.floats(0.01, 1),
    min_keep=st.floats(0, 1),
    tile_cut=st.sampled_from(["full", "cluster"]),
    degenerate=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_any_layout_gives_a_sound_plan(layout, clusters, top_p, min_keep, tile_cut, degenerate):
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 2, layout.tokens, 64, generator=rng) for _ in range(3))
    if degenerate:  # all tokens equal: one cluster takes them all, the others stay empty
        q, k = torch.ones_like(q), torch.ones_like(k)
    config = SVG2Config(
        choose_by="top_p",
        top_p=top_p,
        min_keep=min_keep,
        q_clusters=clusters[0],
        k_clusters=clusters[1],
        tile_cut=tile_cut,
        kmeans_init_iters=2,
    )
    made, out, _ = make_plan(q, k, v, config, layout)
    mask = plan_mask(made, layout.tokens)  # every row in one tile, no key twice
    text, read = text_rows(layout), read_mask(layout, q.device, SparseState())
    assert mask[:, :, text][..., read].all() and mask[..., text & read].all() and not mask[..., ~read].any()
    assert mask.any(-1).all()
    if top_p == 1 or min_keep == 1:
        assert mask[..., read].all()
    assert torch.equal(sum(part.pairs() for part in made), mask.sum((-2, -1)).float())
    assert out.isfinite().all()


def test_tail_lowers_the_error_at_equal_density():
    layout = VideoLayout(8, 16, 16)
    q, k, v = video_qkv(8, 16, 16, heads=4, head_dim=128)
    error = {}
    for tail in ("off", "zero_order", "second_order"):
        config = SVG2Config(choose_by="top_p", top_p=0.6, min_keep=0.05, q_clusters=24, k_clusters=64, tail=tail)
        _, stats = sparse_attention(q, k, v, config=config, layout=layout, measure_error=True)
        error[tail] = stats.error
        assert stats.density.mean() < 0.35
    assert (error["second_order"] < error["zero_order"]).all() and (error["zero_order"] < 0.7 * error["off"]).all()
    assert error["second_order"].mean() < 0.95 * error["zero_order"].mean() < 0.5 * error["off"].mean()


def test_tail_is_exact_for_keys_without_spread():
    """Keys that are equal within a cluster lose nothing by being replaced by it, whatever is chosen."""
    rng = torch.Generator().manual_seed(0)
    q = torch.randn(1, 1, 256, 64, generator=rng)
    places = torch.randn(1, 1, 8, 64, generator=rng)
    labels = torch.arange(256) % 8
    k, v = places[:, :, labels], torch.randn(1, 1, 8, 64, generator=rng)[:, :, labels]
    config = SVG2Config(choose_by="top_p", top_p=0.3, min_keep=0.1, q_clusters=4, k_clusters=8)
    out, stats = sparse_attention(q, k, v, config=config, layout=LAYOUT)
    assert stats.density.item() < 0.6
    torch.testing.assert_close(out, masked_attention(q, k, v, torch.tensor(True)).float(), atol=1e-5, rtol=1e-4)


def test_state_goes_on_where_the_last_call_ended():
    q, k, v = video_qkv(4, 8, 8, heads=1, head_dim=64)
    config = SVG2Config(q_clusters=8, k_clusters=16, kmeans_init_iters=6, kmeans_step_iters=2)
    state = SparseState()
    warm_up(q, k, config=config, layout=LAYOUT, state=state, key="a")
    assert state.get("a").iterations == 2
    sparse_attention(q, k, v, config=config, layout=LAYOUT, state=state, key="a")
    assert state.get("a").iterations == 6  # the first sparse call catches up on what warm-up left
    sparse_attention(q, k, v, config=config, layout=LAYOUT, state=state, key="a")
    assert state.get("a").iterations == 8
    sparse_attention(q, k, v, config=config, layout=LAYOUT, state=state, key="b")
    assert state.get("b").iterations == 6 and len(state) == 3  # and the rows that are looked at


def test_recluster_every_keeps_labels_and_refreshes_centroids():
    config = SVG2Config(q_clusters=8, k_clusters=16, recluster_every=3, kmeans_init_iters=3)
    last, calls = None, []
    for step in range(4):
        q, k, _ = video_qkv(4, 8, 8, heads=1, head_dim=64, seed=step)
        clusters, last = update_clusters(q, k, Call.of(q, config, LAYOUT), last, final=True)
        calls.append(clusters)
        assert (last.k_labels is None) == (step == 2)  # nothing that the next call does not read
    labels = [call.keys.labels for call in calls]
    assert torch.equal(labels[0], labels[1]) and torch.equal(labels[0], labels[2])
    assert not torch.equal(calls[0].key_centroids.mean, calls[1].key_centroids.mean)
    assert not torch.equal(labels[0], labels[3])


def test_state_is_small():
    """Means in the model's dtype and nothing else: that is what 40 layers with cond and uncond can afford."""
    q, k, v = video_qkv(4, 8, 8, heads=2, head_dim=64, dtype=torch.bfloat16)
    state = SparseState()
    sparse_attention(q, k, v, config=SVG2Config(q_clusters=8, k_clusters=16), layout=LAYOUT, state=state, key=0)
    kept = [value for value in vars(state.get(0)).values() if isinstance(value, torch.Tensor)]
    assert sum(x.untyped_storage().nbytes() for x in kept) == 2 * (8 + 16) * 64 * 2


def test_more_clusters_than_tokens_is_clamped():
    layout = VideoLayout(1, 3, 5)
    q, k, v = video_qkv(1, 3, 5, heads=1, head_dim=64)
    out, stats = sparse_attention(q, k, v, config=SVG2Config(), layout=layout)
    assert out.isfinite().all() and 0 <= stats.density <= 1
