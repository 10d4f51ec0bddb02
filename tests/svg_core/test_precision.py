"""Products in few bits: what they add to the error of a call, and what they leave as it is."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
from scene import hard_for_few_bits, video_qkv
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import Call, SparseState, SVG2Config, SVGConfig, VideoLayout, attention, sparse_attention

gather = importlib.import_module("sparse_videogen.kernels.gather_attention")

LAYOUT = VideoLayout(6, 16, 16)
SVG2 = SVG2Config(density=0.25, q_clusters=12, k_clusters=64, kmeans_init_iters=4)
CONFIGS = [
    pytest.param(SVGConfig(sparsity=0.7), id="svg"),
    pytest.param(SVG2, id="svg2"),
    pytest.param(replace(SVG2, choose_by="top_p", top_p=0.7, tail="off", tile_cut="cluster"), id="svg2-paper"),
]
# Most that is added, relative to the result of the same plan in 16 bit.
MOST = {"int8": 0.010, "8 bit": 0.025}
MOST_OF_HARD = 0.04
HARD = list(hard_for_few_bits(*(torch.randn(1, 1, 32, 32) for _ in range(3))))


@pytest.fixture
def heads(monkeypatch):
    """Of each call of gather_attention, in their order."""
    counts, own = [], attention.gather_attention

    def counted(q, *args, **kwargs):
        counts.append(q.shape[1])
        return own(q, *args, **kwargs)

    monkeypatch.setattr(attention, "gather_attention", counted)
    return counts


def added(q, k, v, config, precision, layout=LAYOUT, **more):
    """|out - out in 16 bit| / |out in 16 bit| of each head, and both outputs."""
    sixteen, _ = sparse_attention(q, k, v, config=config, layout=layout)
    out, stats = sparse_attention(q, k, v, config=config, layout=layout, precision=precision, measure_error=True, **more)
    assert stats.finite.all() and out.isfinite().all()
    difference = (out.float() - sixteen.float()).norm(dim=(-2, -1)) / sixteen.float().norm(dim=(-2, -1))
    return difference, out, sixteen


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("precision", MOST)
@pytest.mark.parametrize("config", CONFIGS)
def test_little_is_added(config, precision, head_dim):
    q, k, v = video_qkv(6, 16, 16, heads=4, head_dim=head_dim, dtype=torch.bfloat16)
    difference, out, sixteen = added(q, k, v, config, precision)
    assert 0 < difference.max() <= MOST[precision]
    assert out.dtype == torch.bfloat16 and not torch.equal(out, sixteen)


def test_values_in_scaled_float16_add_next_to_nothing(monkeypatch):
    """As GeForce cards have them in int8, where a CPU leaves them as they are."""
    q, k, v = video_qkv(6, 16, 16, heads=4, head_dim=128, dtype=torch.bfloat16)
    _, own, sixteen = added(q, k, v, SVG2, "int8")
    int8 = gather.tile_config("gather_attention", 128, q.device, precision="int8")
    assert int8.values is None
    monkeypatch.setattr(gather, "tile_config", lambda *args: replace(int8, values="float16"))
    scaled, _ = sparse_attention(q, k, v, config=SVG2, layout=LAYOUT, precision="int8")
    difference = (scaled.float() - own).norm(dim=(-2, -1)) / sixteen.float().norm(dim=(-2, -1))
    assert 0 < difference.max() < 0.001


@pytest.mark.parametrize("precision", MOST)
@pytest.mark.parametrize("case", HARD)
def test_hard_heads(case, precision):
    q, k, v = hard_for_few_bits(*video_qkv(6, 16, 16, heads=4, head_dim=128))[case]
    assert added(q, k, v, SVG2, precision)[0].max() <= MOST_OF_HARD


def test_sixteen_is_the_default_and_quantises_nothing(monkeypatch):
    q, k, v = video_qkv(6, 16, 16, heads=2, head_dim=64, dtype=torch.bfloat16)
    monkeypatch.setattr(attention, "measure_channels", None)
    monkeypatch.setattr(gather, "quantise", None)
    outs = [sparse_attention(q, k, v, config=SVG2, layout=LAYOUT, **more)[0] for more in ({}, {"precision": "16 bit"})]
    assert torch.equal(*outs)
    with pytest.raises(TypeError):
        sparse_attention(q, k, v, config=SVG2, layout=LAYOUT, precision="int8")


@pytest.mark.parametrize("precision", MOST)
@pytest.mark.parametrize("config", CONFIGS)
def test_heads_do_not_meet_however_many_run_together(config, precision, heads):
    """Groups of heads share a workspace, and nothing else: bit for bit."""
    q, k, v = video_qkv(6, 16, 16, heads=4, head_dim=64, dtype=torch.bfloat16)
    q, k, v = (torch.cat([x, x.flip(1)]) for x in (q, k, v))
    call = {"config": config, "layout": LAYOUT, "precision": precision}
    together, _ = sparse_attention(q, k, v, **call)
    assert set(heads) == {4}
    heads.clear()
    one_by_one, _ = sparse_attention(q, k, v, **call, workspace_bytes=1)
    assert torch.equal(together, one_by_one) and set(heads) == {1}


@pytest.mark.parametrize("config", CONFIGS)
def test_the_texts_queries_stay_in_16_bit(config):
    layout = VideoLayout(6, 16, 16, text_before=5, text_after=20, masked=(1557, 1558))
    q, k, v = video_qkv(6, 16, 16, heads=2, head_dim=64, text=25, dtype=torch.bfloat16)
    _, out, sixteen = added(q, k, v, config, "8 bit", layout)
    text = torch.ones(layout.tokens, dtype=torch.bool)
    text[layout.video] = False
    assert torch.equal(out[:, :, text], sixteen[:, :, text]) and not torch.equal(out, sixteen)


@pytest.mark.parametrize("precision", MOST)
def test_conditionings_of_one_plan_have_keys_of_their_own(precision):
    q, k, v = (torch.cat([x, 1.1 * x.roll(1, 2) + 0.3]) for x in video_qkv(6, 16, 16, heads=2, head_dim=64))
    q, k, v = (x.to(torch.bfloat16) for x in (q, k, v))
    out, _ = sparse_attention(q, k, v, config=SVG2, layout=LAYOUT, conditionings=2, precision=precision)
    sixteen, _ = sparse_attention(q, k, v, config=SVG2, layout=LAYOUT, conditionings=2)
    assert ((out.float() - sixteen).norm(dim=(-2, -1)) / sixteen.float().norm(dim=(-2, -1))).max() <= MOST[precision]


def test_a_heads_full_computation_is_not_in_few_bits():
    """Where the measured error is above max_error, dense attention takes the head over."""
    q, k, v = video_qkv(6, 16, 16, heads=2, head_dim=64, dtype=torch.bfloat16)
    call = {"config": SVG2, "layout": LAYOUT, "max_error": 1e-6}
    few, stats = sparse_attention(q, k, v, **call, precision="8 bit")
    assert stats.dense.all() and torch.equal(few, sparse_attention(q, k, v, **call)[0])


@pytest.mark.parametrize("precision", MOST)
def test_what_is_quantised_shares_the_workspace(precision, heads):
    """SVG's lists are all there at once, so that a workspace holds as many heads as are quantised in it."""
    q, k, v = video_qkv(6, 16, 16, heads=5, head_dim=64, dtype=torch.bfloat16)
    call = {"config": SVGConfig(sparsity=0.7), "layout": LAYOUT}
    one = Call.of(q, **call, precision=precision).quantised_bytes
    assert one == LAYOUT.tokens * (64 * (2 if precision == "int8" else 3) + 16)  # values of a CPU's int8 are its own
    sparse_attention(q, k, v, **call, precision=precision, workspace_bytes=2 * one + 1)
    assert heads == [2, 2, 1]


def test_states_of_all_precisions_are_alike():
    """The clusters that a call leaves to the next do not depend on it."""
    q, k, v = video_qkv(6, 16, 16, heads=2, head_dim=64, dtype=torch.bfloat16)
    outs = []
    for first in PRECISIONS:
        state = SparseState()
        call = {"config": SVG2, "layout": LAYOUT, "state": state, "key": 0}
        sparse_attention(q, k, v, **call, precision=first)
        outs.append(sparse_attention(q, k, v, **call)[0])
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
