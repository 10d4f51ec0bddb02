"""What only a GPU can show; skipped without one."""

from __future__ import annotations

import importlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scene import video_qkv
from sparse_videogen.kernels import failures
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, VideoLayout, sparse_attention

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
LAYOUT = VideoLayout(9, 30, 52, text_after=40)
CONFIGS = [
    pytest.param(SVGConfig(sparsity=0.6), id="svg"),
    pytest.param(SVG2Config(choose_by="top_p", top_p=0.8, q_clusters=50, k_clusters=150), id="svg2"),
    pytest.param(
        SVG2Config(choose_by="top_p", top_p=0.8, q_clusters=50, k_clusters=150, tail="off", tile_cut="cluster"), id="svg2-paper"
    ),
]


def inputs(head_dim, dtype):
    made = video_qkv(9, 30, 52, heads=4, head_dim=head_dim, text=40, dtype=dtype)
    return tuple(x.cuda() for x in made)


@pytest.mark.parametrize("masked", [(), (LAYOUT.tokens - 2, LAYOUT.tokens - 1)], ids=["no-mask", "masked"])
@pytest.mark.parametrize("config", CONFIGS)
def test_a_call_never_waits_for_the_gpu(config, masked, monkeypatch):
    # The tests' own check of each plan waits.
    monkeypatch.setattr(importlib.import_module("sparse_videogen.kernels.gather_attention"), "DEBUG", False)
    q, k, v = inputs(128, torch.bfloat16)
    layout, state = replace(LAYOUT, masked=masked), SparseState()
    call = {"config": config, "layout": layout, "state": state, "key": 0, "measure_error": True}
    sparse_attention(q, k, v, **call)  # a run's first call with a layout builds SVG's lists, copies masks, and may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        sparse_attention(q, k, v, **call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert failures() == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "config",
    [SVGConfig(sparsity=0), SVG2Config(choose_by="top_p", top_p=1.0, q_clusters=50, k_clusters=150)],
    ids=["svg", "svg2"],
)
def test_everything_chosen_is_dense_attention(config, head_dim, dtype):
    """Within 8 roundings of the dtype (TF32 rounds float32 as float16) at the size of the values."""
    q, k, v = inputs(head_dim, dtype)
    out, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT)
    # Head by head: the scores of one are 1.6 GB.
    heads = zip(*(x.double().split(1, dim=1) for x in (q, k, v)), strict=True)
    dense = torch.cat([F.scaled_dot_product_attention(*head) for head in heads], dim=1)
    rounding = torch.finfo(torch.float16 if dtype == torch.float32 else dtype).eps
    assert (out.double() - dense).abs().max() <= 8 * rounding * v.double().abs().max()
    assert failures() == {}


@pytest.mark.parametrize("config", CONFIGS)
def test_two_calls_are_equal_with_half_the_workspace_too(config):
    q, k, v = inputs(128, torch.bfloat16)
    call = {"config": config, "layout": LAYOUT}
    first, second, split = (sparse_attention(q, k, v, **call, **less)[0] for less in ({}, {}, {"workspace_bytes": 1}))
    assert torch.equal(first, second) and torch.equal(first, split)


@pytest.mark.parametrize("recluster_every", [1, 3])
def test_a_state_in_host_memory_changes_nothing_but_memory(recluster_every):
    """Layers in turn, step after step, as a model calls them; equal bit for bit, with less memory on the GPU."""
    config = SVG2Config(
        choose_by="top_p", top_p=0.8, q_clusters=200, k_clusters=600, kmeans_init_iters=4, recluster_every=recluster_every
    )
    layers = [inputs(128, torch.bfloat16) for _ in range(3)]

    def run(budget_bytes):
        state, outs = SparseState(budget_bytes), []
        for _ in range(4):
            for layer, (q, k, v) in enumerate(layers):
                outs.append(sparse_attention(q, k, v, config=config, layout=LAYOUT, state=state, key=layer)[0].cpu())
        return outs, torch.cuda.memory_allocated(), len(state)

    everything, kept, _ = run(None)
    moved, left, values = run(0)
    assert values == len(layers) + 1 and left < kept  # and the rows that are looked at
    assert all(torch.equal(a, b) for a, b in zip(everything, moved, strict=True))
