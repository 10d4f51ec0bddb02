"""The public call: identities, determinism, layouts in memory, bad input."""

from __future__ import annotations

import gc
import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from precision import product_eps
from scene import video_qkv
from sparse_videogen.kernels import failures
from sparse_videogen.svg_core import Call, SparseState, SVG2Config, SVGConfig, VideoLayout, attention, sparse_attention
from sparse_videogen.svg_core.clusters import ClusterState
from sparse_videogen.svg_core.svg2 import list_bytes
from sparse_videogen.svg_core.tiles import read_mask

LAYOUT = VideoLayout(4, 9, 7, text_before=3, text_after=6)
CONFIGS = [
    pytest.param(SVGConfig(sparsity=0.5), id="svg"),
    pytest.param(SVG2Config(density=0.4, q_clusters=10, k_clusters=20), id="svg2"),
    pytest.param(SVG2Config(density=0.4, q_clusters=10, k_clusters=20, tail="off", score_every=3), id="svg2-no-tail"),
    pytest.param(SVG2Config(choose_by="target_error", target_error=0.1, q_clusters=10, k_clusters=20), id="svg2-target"),
    pytest.param(SVG2Config(choose_by="top_p", top_p=0.6, q_clusters=10, k_clusters=20), id="svg2-top-p"),
    pytest.param(
        SVG2Config(choose_by="top_p", top_p=0.6, q_clusters=10, k_clusters=20, tail="off", tile_cut="cluster"), id="svg2-paper"
    ),
]
EVERYTHING = [
    pytest.param(SVGConfig(sparsity=0), id="svg"),
    pytest.param(SVG2Config(density=1.0), id="svg2"),
    pytest.param(SVG2Config(density=1.0, tile_cut="cluster", tail="off"), id="svg2-no-tail"),
    pytest.param(SVG2Config(choose_by="top_p", top_p=1.0), id="svg2-top-p"),
    pytest.param(SVG2Config(choose_by="top_p", top_p=1.0, tail="off", tile_cut="cluster"), id="svg2-paper"),
]


@pytest.mark.parametrize("dtype, factor", [(torch.float32, 1e-6), (torch.bfloat16, 8e-3), (torch.float16, 1e-3)], ids=str)
@pytest.mark.parametrize("config", EVERYTHING)
def test_everything_chosen_is_dense_attention(config, dtype, factor, make_qkv):
    """`factor`: one rounding of the result in its dtype, at values of order one."""
    q, k, v = make_qkv(LAYOUT, heads=3, batch=2, dtype=dtype)
    out, stats = sparse_attention(q, k, v, config=config, layout=LAYOUT, measure_error=True)
    dense = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert out.dtype == dtype and (out.float() - dense).abs().max() < factor
    assert (stats.density == 1).all() and (stats.computed == 1).all()
    assert stats.error.max() < factor


@pytest.mark.parametrize("config", CONFIGS)
def test_two_calls_are_equal_within_autocast_too_and_draw_no_random_numbers(config):
    q, k, v = video_qkv(4, 9, 7, heads=2, head_dim=64, text=9)
    before = torch.random.get_rng_state()
    call = {"config": config, "layout": LAYOUT, "measure_error": True}
    expected, stats = sparse_attention(q, k, v, **call)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out, same = sparse_attention(q, k, v, **call)
        assert torch.equal(out, expected) and torch.equal(same.error, stats.error)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("config", CONFIGS)
def test_memory_order_does_not_matter_and_is_kept(config, make_clustered_qkv):
    q, k, v = make_clustered_qkv(LAYOUT, heads=3)
    host_order = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    out, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT)
    same, _ = sparse_attention(*host_order, config=config, layout=LAYOUT)
    torch.testing.assert_close(same, out)
    assert same.transpose(1, 2).is_contiguous()  # [B, N, H * D] for the host without a copy


@pytest.mark.parametrize("config", CONFIGS)
def test_batch_rows_do_not_meet(config, make_clustered_qkv):
    q, k, v = make_clustered_qkv(LAYOUT, batch=2)
    both, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT, state=SparseState(), key=0)
    alone, _ = sparse_attention(q[1:], k[1:], v[1:], config=config, layout=LAYOUT)
    torch.testing.assert_close(both[1:], alone)


@pytest.mark.parametrize("config", CONFIGS)
def test_stats_tell_what_was_done(config):
    layout = VideoLayout(8, 9, 9, text_after=9)
    q, k, v = video_qkv(8, 9, 9, heads=2, head_dim=64, text=9)
    out, stats = sparse_attention(q, k, v, config=config, layout=layout, measure_error=True)
    dense = F.scaled_dot_product_attention(q, k, v)
    true_error = (out - dense)[:, :, layout.video].norm(dim=(-2, -1)) / dense[:, :, layout.video].norm(dim=(-2, -1))
    assert stats.density.shape == stats.computed.shape == stats.error.shape == (1, 2)
    assert (stats.density < 1).all() and (stats.computed >= stats.density).all()
    assert (stats.pattern is None) == isinstance(config, SVG2Config)
    assert torch.all((stats.error / true_error - 1).abs() < 0.35)  # 64 of 648 rows
    _, unmeasured = sparse_attention(q, k, v, config=config, layout=layout)
    assert (unmeasured.error is None) != (getattr(config, "choose_by", "") == "target_error")


@pytest.mark.parametrize("config", EVERYTHING)
def test_masked_text_is_left_out_and_sm_scale_honoured_in_output_and_error(config, make_qkv):
    layout = VideoLayout(4, 9, 7, text_before=3, text_after=6, masked=(1, 257, 258, 260))
    q, k, v = make_qkv(layout)
    v[:, :, list(layout.masked)] = 1e3  # any of it in the result would show
    out, stats = sparse_attention(q, k, v, config=config, layout=layout, measure_error=True, sm_scale=0.3)
    mask = read_mask(layout, q.device, SparseState())
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.expand(layout.tokens, -1), scale=0.3)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert stats.error.max() < 1e-6
    torch.testing.assert_close(stats.density, torch.full((1, 2), mask.float().mean().item()))


def tensors_alive() -> int:
    gc.collect()
    return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())


@pytest.mark.parametrize("masked", [(), (0, 258)], ids=["no-mask", "masked"])
@pytest.mark.parametrize("config", CONFIGS)
def test_nothing_lives_longer_than_the_state(config, masked, make_qkv, monkeypatch):
    layout = VideoLayout(4, 9, 7, text_before=3, text_after=6, masked=masked)
    state, (q, k, v) = SparseState(), make_qkv(layout)
    call = {"config": config, "layout": layout, "state": state, "key": 0, "measure_error": True}
    before = tensors_alive()
    first, stats = sparse_attention(q, k, v, **call)
    with monkeypatch.context() as no_copies:
        no_copies.setattr(torch, "tensor", None)  # a copy to a GPU waits for it: once a run, not in each call
        again, stats = sparse_attention(q, k, v, **call)
    del first, again, stats
    assert tensors_alive() > before
    state.clear()
    assert tensors_alive() <= before


@pytest.mark.parametrize("masked", [(), (1, 257)], ids=["no-mask", "masked"])
@pytest.mark.parametrize("config", CONFIGS)
def test_heads_above_max_error_are_computed_in_full(config, masked):
    layout = VideoLayout(4, 9, 7, text_before=3, text_after=6, masked=masked)
    q, k, v = video_qkv(4, 9, 7, heads=4, head_dim=64, text=9)
    q[:, 1] *= 0.01  # attends to everything alike: no sparse choice is near it
    call = {"config": config, "layout": layout, "measure_error": True}
    sparse, free = sparse_attention(q, k, v, **call)
    limit = free.error.sort().values[0, 1:3].mean().item()  # between the second and the third of four heads
    out, stats = sparse_attention(q, k, v, **call, max_error=limit)
    assert torch.equal(stats.dense, free.error > limit) and stats.dense.sum() == 2
    read = read_mask(layout, q.device, SparseState()).expand(layout.tokens, -1)
    exact = F.scaled_dot_product_attention(q, k, v, attn_mask=read)
    torch.testing.assert_close(out[stats.dense], exact[stats.dense])
    assert torch.equal(out[~stats.dense], sparse[~stats.dense])
    assert (stats.error <= limit).all() and (stats.error[stats.dense] == 0).all()
    assert (stats.density == free.density.masked_fill(stats.dense, 1)).all()
    assert torch.equal(stats.computed, free.computed + stats.dense)
    assert not free.dense.any()


@pytest.mark.parametrize("config", CONFIGS)
def test_what_is_not_finite_is_told_apart_by_dense_attention_and_passes_no_limit(config, monkeypatch):
    """In head 0 it comes with q, in head 1 the executor brings it, and head 2 is as it should be."""
    q, k, v = video_qkv(4, 9, 7, heads=3, head_dim=64, text=9)
    q[:, 0, LAYOUT.video] = float("nan")
    gather = attention.gather_attention

    def broken(*args, out, **kwargs):
        gather(*args, out=out, **kwargs)
        out[:, 1] = float("inf")

    monkeypatch.setattr(attention, "gather_attention", broken)
    call = {"config": config, "layout": LAYOUT, "measure_error": True}
    sparse, free = sparse_attention(q, k, v, **call)
    assert sparse[:, 2].isfinite().all() and free.finite.tolist() == [[False, False, True]]
    assert free.exact_finite.tolist() == [[False, True, True]]
    out, stats = sparse_attention(q, k, v, **call, max_error=0.99)
    assert stats.dense.tolist() == [[True, True, False]] and stats.finite.tolist() == [[False, True, True]]
    torch.testing.assert_close(out[:, 1], F.scaled_dot_product_attention(q, k, v)[:, 1])
    unmeasured = sparse_attention(q, k, v, config=config, layout=LAYOUT)[1].exact_finite is None
    assert unmeasured != (getattr(config, "choose_by", "") == "target_error")  # which needs to know its error


def test_kept_is_the_share_of_clusters_that_tiles_read():
    q, k, v = video_qkv(4, 9, 7, heads=2, head_dim=64, text=9)
    cut = {"q_clusters": 10, "k_clusters": 20, "tile_cut": "cluster"}
    for config, expected in (
        (SVG2Config(choose_by="top_p", top_p=1.0, **cut), 1.0),
        (SVG2Config(choose_by="top_p", top_p=1e-6, min_keep=0.15, **cut), 0.15),
    ):
        _, stats = sparse_attention(q, k, v, config=config, layout=LAYOUT)
        torch.testing.assert_close(stats.kept_fraction, torch.full((1, 2), expected))
    assert sparse_attention(q, k, v, config=SVGConfig(), layout=LAYOUT)[1].kept_fraction is None


def test_fewer_heads_at_a_time_change_nothing():
    q, k, v = video_qkv(4, 9, 7, heads=5, head_dim=64, text=9)
    call = {"config": SVG2Config(choose_by="top_p", top_p=0.6, q_clusters=10, k_clusters=20), "layout": LAYOUT}
    whole, stats = sparse_attention(q, k, v, **call)
    for workspace_bytes in (1, 2 * list_bytes(Call.of(q, **call))):
        split, same = sparse_attention(q, k, v, **call, workspace_bytes=workspace_bytes)
        assert torch.equal(whole, split) and torch.equal(stats.density, same.density)


def test_a_call_that_fails_leaves_the_state_as_it_was(monkeypatch):
    q, k, v = video_qkv(4, 9, 7, heads=2, head_dim=64, text=9)
    state = SparseState()
    call = {"config": SVG2Config(q_clusters=10, k_clusters=20), "layout": LAYOUT, "state": state, "key": 0}
    sparse_attention(q, k, v, **call)
    before = state.get(0)

    def fail(*args, **kwargs):
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(attention, "gather_attention", fail)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        sparse_attention(q, k, v, **call)
    assert state.get(0) is before


@pytest.mark.parametrize("device, tokens", [("meta", LAYOUT.video_tokens), ("cpu", 248)], ids=["device", "shape"])
def test_a_state_of_another_device_or_shape_is_not_used(device, tokens):
    """As after a model moved, or with another video: the means of the last call are of no use."""
    q, k, v = video_qkv(4, 9, 7, heads=2, head_dim=64, text=9)
    config = SVG2Config(q_clusters=10, k_clusters=20, kmeans_init_iters=3)
    expected, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT)
    state, means = SparseState(), [torch.zeros(1, 2, n, 64, device=device) for n in (10, 20)]
    state.put(0, ClusterState(*means, None, None, None, tokens, 3, 1, True, None))
    out, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT, state=state, key=0)
    assert torch.equal(out, expected) and state.get(0).q_mean.device == q.device and state.get(0).tokens == 252


@pytest.mark.parametrize(
    "head_dim, keys, other, message",
    [
        (64, 261, {"layout": VideoLayout(4, 9, 7)}, "has 252 tokens, q has 261"),
        (64, 77, {}, r"k \(1, 2, 77, 64\)"),
        (96, 261, {}, r"head_dim 96 must be one of \(64, 128\)"),
        (64, 261, {"backend": "cuda"}, "backend='cuda'"),
        (64, 261, {"conditionings": 2}, "conditionings=2: a batch of 1"),
    ],
    ids=["length", "cross-attention", "head_dim", "backend", "conditionings"],
)
def test_rejects_what_does_not_fit(head_dim, keys, other, message, make_qkv):
    q, k, v = make_qkv(LAYOUT, head_dim=head_dim)
    with pytest.raises(ValueError, match=message):
        sparse_attention(q, k[:, :, :keys], v, **{"config": SVGConfig(), "layout": LAYOUT, **other})


@pytest.mark.parametrize("dtype, factor", [(torch.float32, 2e-5), (torch.float16, 2e-3)], ids=str)
@pytest.mark.parametrize("config", CONFIGS)
def test_triton_equals_torch(config, dtype, factor, make_clustered_qkv):
    """`factor`: of the largest value; in float16 the kernel rounds weights and the tail, and both round the result.

    TF32 cuts the factors off, so logits shrink by up to 1e-3 of themselves: that shows in the measured error, too.
    """
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    by_tf32 = product_eps(dtype, "triton", device) > torch.finfo(dtype).eps
    factor, error_atol = (2e-3, 3e-3) if by_tf32 else (factor, 1e-3)
    q, k, v = (x.to(device, dtype) for x in make_clustered_qkv(LAYOUT))
    expected, wanted = sparse_attention(q, k, v, config=config, layout=LAYOUT, backend="torch", measure_error=True)
    out, stats = sparse_attention(q, k, v, config=config, layout=LAYOUT, backend="triton", measure_error=True)
    assert failures() == {}
    assert (out.float() - expected.float()).abs().max() < factor * expected.float().abs().max()
    torch.testing.assert_close(stats.density, wanted.density)
    torch.testing.assert_close(stats.error, wanted.error, atol=error_atol, rtol=0)
    assert (stats.computed >= stats.density).all()


BAD_SETTINGS = [
    *((SVGConfig, name, value) for name, value in (("sparsity", 1.0), ("sparsity", -0.1), ("sampled_rows", 0))),
    *((SVG2Config, name, value) for name, value in (("top_p", 0), ("top_p", 1.01), ("min_keep", -0.1), ("k_clusters", 0))),
    *((SVG2Config, name, value) for name, value in (("tail", "third"), ("tile_cut", "row"))),
    (partial(VideoLayout, height=4, width=4), "frames", 0),
    # Of the video, falling, twice, beyond the end.
    *((partial(VideoLayout, 4, 9, 7, 3, 6), "masked", masked) for masked in ((5,), (260, 258), (1, 1), (300,))),
]


@pytest.mark.parametrize("make, field, value", BAD_SETTINGS, ids=str)
def test_rejects_bad_settings_and_layouts(make, field, value):
    with pytest.raises(ValueError, match=re.escape(f"{field}={value!r}")):
        make(**{field: value})
