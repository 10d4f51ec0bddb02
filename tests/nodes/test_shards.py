"""How tokens are shared out among GPUs, exchanged for heads, and back; needs no host."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from load_pack import ROOT
from processes import ENGINES, NO_ENGINES, run_ranks
from sparse_videogen.nodes.families import FAMILIES
from sparse_videogen.nodes.reasons import StayDense
from sparse_videogen.nodes.shards import Shards, hunyuan_shards, wan_shards
from sparse_videogen.svg_core import VideoLayout

WAN, HUNYUAN = (next(family for family in FAMILIES if family.name == name) for name in ("Wan", "HunyuanVideo"))
GRID = VideoLayout(3, 5, 7)
MODEL = SimpleNamespace(patch_size=(1, 2, 2), double_blocks=[None] * 2, ref_conv=None)


@given(ranks=st.integers(1, 9), lengths=st.lists(st.integers(1, 40), min_size=1, max_size=3))
def test_tokens_come_in_order_without_the_padding_and_go_back(ranks, lengths):
    """A shard is a piece of each sequence; what a rank does not have is zero."""
    shards = Shards(ranks, tuple(lengths), GRID)
    whole = torch.arange(1, sum(lengths) + 1).reshape(1, -1, 1, 1)
    shared = shards.by_shard(whole)
    assert shared.shape[1] == ranks * sum(shards.pieces)
    assert torch.equal(shards.in_order(shared), whole)
    assert int((shared == 0).sum()) == shared.shape[1] - whole.shape[1]
    for shard in shared[0, :, 0, 0].split(sum(shards.pieces)):  # each is rising, and has its part of each sequence
        starts = torch.tensor([1, *lengths]).cumsum(0)
        for piece, start, end in zip(shard.split(shards.pieces), starts[:-1], starts[1:], strict=True):
            held = piece[piece > 0]
            assert ((held >= start) & (held < end)).all() and (held.diff() == 1).all()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("surplus", [{}, {"reference_latent": (1, 16, 1, 10, 14)}, {"context_latents": (1, 16, 2, 6, 8)}])
def test_wan_has_one_sequence(ranks, surplus):
    arguments = {"transformer_options": {}}
    arguments |= {name: torch.zeros(shape) for name, shape in surplus.items()}
    more = {"reference_latent": 35, "context_latents": 24}.get(next(iter(surplus), None), 0)
    model = SimpleNamespace(**vars(MODEL) | {"ref_conv": "reference_latent" in surplus or None})
    if "context_latents" in arguments:
        arguments["context_latents"] = [arguments["context_latents"]]
    tokens = GRID.video_tokens + more
    shards = wan_shards(WAN, model, arguments, GRID, -(-tokens // ranks), ranks)
    assert shards.lengths == (tokens,)
    frames = 3 + more // 35
    assert shards.layout == VideoLayout(frames, 5, 7, text_after=tokens - frames * 35)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("text", [12, 13])
@pytest.mark.parametrize("reference", [0, 35])
def test_hunyuan_has_two_sequences_then_one(ranks, text, reference):
    arguments = {"context": torch.zeros(1, text, 4)}
    if reference:
        arguments["ref_latent"] = torch.zeros(1, 16, 1, 10, 14)
    image = reference + GRID.video_tokens
    for calls, lengths in ((1, (text, image)), (2, (text + image,))):
        shard = sum(-(-length // ranks) for length in lengths)
        shards = hunyuan_shards(HUNYUAN, MODEL, arguments, GRID, shard, ranks, calls)
        assert shards.lengths == lengths and sum(shards.pieces) == shard
        assert shards.layout == VideoLayout(3, 5, 7, text_before=text + reference)


def test_hunyuan_with_tokens_that_nobody_knows_stays_dense():
    with pytest.raises(StayDense, match="99 tokens on each of 2 GPUs, where 12 of the text and 105 of the video"):
        hunyuan_shards(HUNYUAN, MODEL, {"context": torch.zeros(1, 12, 4)}, GRID, 99, 2, 0)


def test_hunyuan_with_blocks_that_may_be_left_out_is_told_by_its_sizes_or_stays_dense():
    arguments = {"context": torch.zeros(1, 13, 4)}
    assert hunyuan_shards(HUNYUAN, MODEL, arguments, GRID, 7 + 53, 2, None).lengths == (13, 105)
    assert hunyuan_shards(HUNYUAN, MODEL, arguments, GRID, 59, 2, None).lengths == (118,)
    with pytest.raises(StayDense, match="which of them a call is in cannot be told"):
        hunyuan_shards(HUNYUAN, MODEL, {"context": torch.zeros(1, 14, 4)}, VideoLayout(4, 5, 7), 7 + 70, 2, None)


def test_hunyuan_counts_all_of_its_text():
    """Of version 1.5: what is written in the picture, and the image that stands for the first frame."""
    model = SimpleNamespace(**vars(MODEL) | {"byt5_in": object()})
    arguments = {"context": torch.zeros(1, 12, 4), "txt_byt5": torch.zeros(1, 7, 4), "clip_fea": torch.zeros(1, 9, 4)}
    assert hunyuan_shards(HUNYUAN, model, arguments, GRID, 14 + 53, 2, 0).lengths == (28, 105)


EXCHANGE = """
import json, sys
sys.path.insert(0, sys.argv[1])
from load_pack import load_pack
load_pack()
import torch, torch.distributed as dist
from processes import end, meet
from sparse_videogen.nodes.shards import Shards, gather_heads, scatter_heads
from sparse_videogen.svg_core import SparseState, SVG2Config, SVGConfig, VideoLayout, sparse_attention

meet()
rank, ranks, group = dist.get_rank(), dist.get_world_size(), dist.group.WORLD
WAN, HUNYUAN = VideoLayout(5, 7, 9), VideoLayout(5, 6, 8, text_before=27, masked=tuple(range(20, 27)))
LAYOUTS = {
    "Wan": (VideoLayout(6, 8, 10), (480,)),
    "Wan, padded": (WAN, (315,)),
    "HunyuanVideo, text and image": (HUNYUAN, (27, 240)),
    "HunyuanVideo, as one": (HUNYUAN, (267,)),
}
METHODS = {"SVG": SVGConfig(sparsity=0.6), "SVG2": SVG2Config(density=0.4, q_clusters=6, k_clusters=16, kmeans_init_iters=4)}
wrong = []
for method, config in METHODS.items():
    for name, (layout, lengths) in LAYOUTS.items():
        for dtype in (torch.float32, torch.bfloat16):
            shards = Shards(ranks, lengths, layout)
            own = slice(rank * sum(shards.pieces), (rank + 1) * sum(shards.pieces))
            one, many = SparseState(), SparseState()
            for step in range(3):
                generator = torch.Generator().manual_seed(step)
                rise = torch.linspace(0, 3, layout.tokens)[:, None, None]  # tokens that are near are alike
                whole = [(torch.randn(2, layout.tokens, 4, 64, generator=generator) + rise).to(dtype) for _ in range(3)]
                where = {"config": config, "layout": layout, "key": "a layer", "measure_error": True}
                heads = [x.transpose(1, 2) for x in whole]
                expected, figures = sparse_attention(*heads, state=one, **where)
                local = [shards.in_order(scatter_heads(shards.by_shard(x)[:, own], group)) for x in whole]
                out, mine = sparse_attention(*(x.transpose(1, 2) for x in local), state=many, **where)
                out = gather_heads(shards.by_shard(out.transpose(1, 2)), group)
                held = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
                if not torch.equal(out, shards.by_shard(expected.transpose(1, 2))[:, own]):
                    wrong.append([method, name, str(dtype), step, "the result"])
                if not torch.equal(mine.density, figures.density[:, held]) or not (mine.density < 1).any():
                    wrong.append([method, name, str(dtype), step, "the density"])
open(sys.argv[2], "w").write(json.dumps(wrong))
end()
"""


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_compute_what_one_process_computes_bit_for_bit(ranks, tmp_path):
    """SVG and SVG2 with their state over three steps, padded and masked tokens, in float32 and bfloat16."""
    if not (ENGINES / "yunchang").is_dir():
        pytest.skip(NO_ENGINES)
    harness, found = ROOT / "tests" / "harness", [tmp_path / f"wrong{rank}.json" for rank in range(ranks)]
    run_ranks(ranks, lambda rank: [sys.executable, "-c", EXCHANGE, harness, found[rank]], tmp_path, timeout_s=300)
    assert [path.read_text() for path in found] == ["[]"] * ranks
