"""What only a GPU can show; skipped without one."""

from __future__ import annotations

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
    pytest.param(SVG2Config(top_p=0.8, q_clusters=50, k_clusters=150), id="svg2"),
    pytest.param(SVG2Config(top_p=0.8, q_clusters=50, k_clusters=150, tail="off", tile_cut="cluster"), id="svg2-paper"),
]


def inputs(head_dim, dtype):
    made = video_qkv(9, 30, 52, heads=4, head_dim=head_dim, text=40, dtype=dtype)
    return tuple(x.cuda() for x in made)


@pytest.mark.parametrize("config", CONFIGS)
def test_a_call_never_waits_for_the_gpu(config):
    q, k, v = inputs(128, torch.bfloat16)
    state = SparseState()
    call = {"config": config, "layout": LAYOUT, "state": state, "key": 0, "measure_error": True}
    sparse_attention(q, k, v, **call)  # the first call of a layout builds SVG's lists, and may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        sparse_attention(q, k, v, **call)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert failures() == {}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "config", [SVGConfig(sparsity=0), SVG2Config(top_p=1.0, q_clusters=50, k_clusters=150)], ids=["svg", "svg2"]
)
def test_everything_chosen_is_dense_attention(config, head_dim, dtype):
    """Within 8 roundings of the dtype (TF32 rounds float32 as float16) at the size of the values."""
    q, k, v = inputs(head_dim, dtype)
    out, _ = sparse_attention(q, k, v, config=config, layout=LAYOUT)
    dense = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    rounding = torch.finfo(torch.float16 if dtype == torch.float32 else dtype).eps
    assert (out.double() - dense).abs().max() <= 8 * rounding * v.double().abs().max()
    assert failures() == {}


@pytest.mark.parametrize("config", CONFIGS)
def test_two_calls_are_equal(config):
    q, k, v = inputs(128, torch.bfloat16)
    first, second = (sparse_attention(q, k, v, config=config, layout=LAYOUT)[0] for _ in range(2))
    assert torch.equal(first, second)
