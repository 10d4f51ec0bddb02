"""Which calls of a forward are the video's, and what tells them apart; needs no host."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from sparse_videogen.nodes import forward as forward_module
from sparse_videogen.nodes.families import FAMILIES, OTHER
from sparse_videogen.nodes.forward import Forward
from sparse_videogen.nodes.reasons import StayDense
from sparse_videogen.nodes.run import Run
from sparse_videogen.nodes.settings import Settings, parse_blocks
from sparse_videogen.svg_core import SVGConfig, VideoLayout

MPS = torch.device("mps")
FAMILY = {family.name: family for family in FAMILIES}
WAN, HUNYUAN, KANDINSKY = (FAMILY[name] for name in ("Wan", "HunyuanVideo", "Kandinsky 5"))
MINIMAX, LTX = (FAMILY[name] for name in ("MiniMax-H3", "LTX"))


class Model(torch.nn.Module):
    """A model's shell: what a forward reads of it."""

    patch_size = (1, 2, 2)
    double_blocks = [SimpleNamespace(flipped_img_txt=True)] * 20
    txt_in = SimpleNamespace(individual_token_refiner=SimpleNamespace(blocks=[None] * 2))
    text_transformer_blocks = [None] * 2
    img_emb = SimpleNamespace()
    num_heads, dim, hidden_size = 2, 256, 256
    visual_transformer_blocks = [SimpleNamespace(self_attention=SimpleNamespace(num_heads=2, head_dim=128))]
    blocks = [SimpleNamespace(attn=SimpleNamespace(heads=2, head_dim=128))]
    token_refiner = SimpleNamespace(blocks=[None] * 2)
    transformer_blocks = [SimpleNamespace(attn1=SimpleNamespace(heads=2, dim_head=128))]
    patchifier = SimpleNamespace(patch_size=(1, 2, 2))


def make_forward(family=WAN, uuids=("cond",), window=None, replaced=(), arguments=None, **more):
    """`more` is of the settings, or else of the host's options."""
    settings = {name: more.pop(name) for name in list(more) if name in Settings.__dataclass_fields__}
    settings = Settings(SVGConfig(), min_tokens=0, **settings)
    options = {"sigmas": torch.tensor([0.5]), "uuids": list(uuids), **more}
    if replaced:
        options["patches_replace"] = {"dit": {("double_block", i): None for i in replaced}}
    if window is not None:
        options["context_window"] = SimpleNamespace(index_list=window)
    arguments = {"x": torch.zeros(1, 16, 3, 8, 10), "transformer_options": options, **(arguments or {})}
    return Forward(Run(settings, 1.0, 0.0), family, Model(), arguments)


def make_call(forward=None, tokens=60, keys=None, heads=2, head_dim=128, mask=None, batch=1, **options):
    q = torch.zeros(batch, tokens, heads * head_dim)
    k = torch.zeros(batch, keys or tokens, heads * head_dim)
    return (forward or make_forward()).video_call(q, k, k, heads, mask=mask, transformer_options=options)


def reason_of(*args, **kwargs):
    """Why `make_call` of these stays dense."""
    with pytest.raises(StayDense) as stay:
        make_call(*args, **kwargs)
    return str(stay.value)


def test_reads_both_shapes_of_the_hosts_call():
    flat = make_call()
    by_head = [torch.zeros(1, 2, 60, 128)] * 3
    by_head = make_forward().video_call(*by_head, 2, skip_reshape=True, skip_output_reshape=True, transformer_options={})
    assert flat.q.shape == by_head.q.shape == (1, 2, 60, 128)
    assert not flat.skip_output_reshape and by_head.skip_output_reshape


@pytest.mark.parametrize(
    "tokens, keys, mine", [(60, 60, True), (77, 77, True), (60, 12, False), (12, 12, False), (60, 80, False)]
)
def test_only_self_attention_over_the_video_counts(tokens, keys, mine):
    forward = make_forward(arguments={"context": torch.zeros(1, keys, 8)})
    try:
        assert (make_call(forward, tokens=tokens, keys=keys) is not None) is mine
    except StayDense:  # the video's, though what the tokens are is not known
        assert mine


@pytest.mark.parametrize(
    "family, calls, layers",
    [
        (WAN, [{}, {}, {}], [0, 1, 2]),
        *(
            (family, [{"block_index": 3, "block_type": kind} for kind in ("double", "single")], [3, 23])
            for family in (HUNYUAN, OTHER)
        ),
        (WAN, [{"block_index": 0}, {"block_index": 0}, {"block_index": 1}], [0, 0, 1]),
    ],
    ids=["not told", "single blocks come after double blocks", "and in other models", "vace"],
)
def test_each_call_has_a_layer_and_a_key_of_its_own(family, calls, layers):
    """VACE's own blocks carry the index of the main block that they belong to."""
    forward = make_forward(family)
    made = [make_call(forward, **options) for options in calls]
    assert [call.layer for call in made] == layers and len({call.key for call in made}) == len(made)


def test_what_must_not_share_state_has_a_key_of_its_own():
    forwards = [
        make_forward(uuids=("cond",)),
        make_forward(uuids=("uncond",)),
        make_forward(uuids=("uncond", "cond")),
        make_forward(window=[0, 1]),
        make_forward(window=[1, 2]),
        make_forward(replaced=[7, 8]),
        make_forward(stg_self_attn_blocks=frozenset({7})),
        make_forward(a2v_cross_attn=False),
    ]
    keys = [make_call(forward).key for forward in forwards]
    assert len(set(keys)) == len(keys)
    assert make_call(make_forward(uuids=("cond",))).key == keys[0]  # and the next step finds it again


TEXT = {"context": torch.zeros(1, 60, 8)}  # as many tokens as the video


@pytest.mark.parametrize(
    "family, arguments, calls, mine",
    [
        (WAN, TEXT, [{}] * 4, "s.s."),
        (WAN, TEXT, [{"block_index": i // 2} for i in range(4)], "s.s."),
        (WAN, TEXT, [{"block_index": 0}] * 4, "s.s."),  # VACE: a block of its own with the same index
        (WAN, {"context": torch.zeros(1, 12, 8)}, [{}] * 3, "sss"),
        (WAN, {**TEXT, "clip_fea": torch.zeros(1, 60, 8)}, [{}] * 6, "s..s.."),
        (HUNYUAN, {"context": torch.zeros(1, 68, 8)}, [{}] * 2 + [{"block_index": 0}], "..s"),
        (KANDINSKY, TEXT, [{}] * 2 + [{"block_index": i // 2} for i in range(4)], "..s.s."),
        (KANDINSKY, TEXT, [{}] * 6, "..s.s."),
        (MINIMAX, {"context": torch.zeros(1, 60, 8)}, [{}] * 4, "..ss"),
        (MINIMAX, {"context": torch.zeros(1, 60, 256)}, [{}] * 2, "ss"),  # refined ahead
        (LTX, TEXT, [{}, {}, {"head_dim": 64}, {"head_dim": 64}, {}, {}], "s...s."),  # its audio is as long, too
    ],
    ids=[
        *("wan", "wan, index", "vace", "short text", "wan, image", "hunyuan", "kandinsky, index", "kandinsky"),
        *("minimax", "minimax, refined", "ltx"),
    ],
)
def test_attention_of_another_kind_as_long_as_the_videos_is_told_apart(family, arguments, calls, mine):
    forward = make_forward(family, arguments=arguments)
    tokens = 68 if family is HUNYUAN else 60
    found = [make_call(forward, **{"tokens": tokens, **options}) is not None for options in calls]
    assert "".join("s" if one else "." for one in found) == mine


def test_attention_frame_by_frame_stays_dense_and_is_seen():
    forward = make_forward()
    reason = reason_of(forward, tokens=20, keys=80)
    assert reason.startswith("layout: 20 queries over 80 keys") and forward.calls == 1


@pytest.mark.parametrize("rows", [60, 20])
def test_attention_under_a_mask_that_weighs_keyframes_stays_dense_and_is_seen(rows):
    """LTX: the video's queries by themselves, then the keyframes', both over all keys."""
    keyframe = {"x": torch.zeros(1, 16, 4, 8, 10), "keyframe_idxs": torch.zeros(1, 3, 20)}
    forward = make_forward(LTX, arguments={"context": torch.zeros(1, 90, 8), **keyframe})
    reason = reason_of(forward, tokens=rows, keys=80, mask=torch.zeros(1, 1, 1, 80))
    assert reason.startswith(f"layout: {rows} queries over 80 keys") and forward.calls == 1
    assert make_call(forward, tokens=60, keys=90) is None  # the text, which is longer
    assert make_call(forward, tokens=9, keys=60, head_dim=64) is None  # audio that looks at the video
    assert make_call(forward, tokens=60, keys=12) is None


def test_the_parts_of_a_layer_that_has_no_number_are_of_one_layer():
    keyframe = {"x": torch.zeros(1, 16, 4, 8, 10), "keyframe_idxs": torch.zeros(1, 3, 20)}
    forward, layers = make_forward(LTX, arguments=keyframe), []
    for rows in (60, 20) * 2:
        reason_of(forward, tokens=rows, keys=80)
        layers.append(forward.layer)
    assert layers == [0, 0, 1, 1]


def test_text_longer_than_the_video_is_not_taken_for_a_part_of_it():
    """As where a host adds tokens to the text within the forward."""
    assert make_call(make_forward(LTX, arguments={"context": torch.zeros(1, 12, 8)}), tokens=60, keys=128) is None


def test_several_heads_of_queries_to_one_of_keys():
    """As hosts say it by `enable_gqa`, in both shapes of the call, under a mask."""
    q, k, v = torch.zeros(2, 68, 6 * 128), *torch.randn(2, 2, 68, 2 * 128)
    forward = make_forward(HUNYUAN)
    call = forward.video_call(q, k, v, 6, mask=text_mask((67,)), enable_gqa=True, transformer_options={})
    heads = k.view(2, 68, 2, 128).transpose(1, 2)
    assert call.q.shape == call.k.shape == call.v.shape == (2, 6, 68, 128)
    assert torch.equal(call.k[:, 0], heads[:, 0]) and torch.equal(call.k[:, 2], heads[:, 0])
    assert torch.equal(call.k[:, 3], heads[:, 1]) and call.layouts[0].masked == (67,)
    by_head = [call.q, heads, heads]
    again = forward.video_call(*by_head, 6, skip_reshape=True, enable_gqa=True, transformer_options={})
    assert torch.equal(again.k, call.k)
    with pytest.raises(StayDense, match="heads: .*different numbers of heads"):
        forward.video_call(*by_head, 6, skip_reshape=True, transformer_options={})


@pytest.mark.parametrize("x", [[torch.zeros(1, 32, 9)], torch.zeros(1, 60, 16), None])
def test_an_input_that_is_no_video_has_no_grid(x):
    forward = make_forward(arguments={"x": x})
    assert forward.grid is None and make_call(forward) is None


def test_reasons_to_stay_dense():
    assert reason_of(tokens=61).startswith("layout: the call has 61 tokens")
    assert reason_of(make_forward(OTHER), heads=2, head_dim=32).startswith("head_dim: heads of 32")
    # An unknown model, whose text may be as long as the video.
    assert reason_of(make_forward(OTHER, arguments=TEXT)).startswith("layout: text and video have 60 tokens each")
    assert make_call(make_forward(OTHER)).layouts == [VideoLayout(3, 4, 5)]
    blocks = make_forward(dense_blocks=parse_blocks("5"))
    assert reason_of(blocks, block_index=5) == "dense_blocks: block 5" and blocks.layer == 5
    forward = make_forward()
    forward.run.training = True
    assert reason_of(forward) == "training: gradients are enabled, and sparse attention cannot compute them"


def test_an_argument_that_no_host_passes_keeps_the_run_dense():
    forward = make_forward()
    with pytest.raises(StayDense, match="error: "):
        forward.video_call(*[torch.zeros(1, 60, 256)] * 3, 3, transformer_options={})
    assert forward.run.failure.label == "error"


def text_mask(*rows, batch_dims=1):
    """Additive [B, 1, N] over 60 video tokens and 8 of text; each row lists what it leaves out."""
    mask = torch.zeros(len(rows), 68)
    for row, out in zip(mask, rows, strict=True):
        row[list(out)] = torch.finfo(torch.float32).min
    return mask.view(len(rows), *[1] * batch_dims, 68)


@pytest.mark.parametrize(
    "mask",
    [text_mask((60, 67)), text_mask((60, 67), batch_dims=2), text_mask((60, 67)).half(), text_mask((60, 67)) == 0,
     text_mask((60, 67))[0], text_mask((60, 67), (60, 67))],
    ids=["3d", "4d", "half", "bool", "2d", "batch"],
)  # fmt: skip
def test_masked_text_becomes_part_of_the_layout(mask):
    call = make_call(make_forward(HUNYUAN), tokens=68, mask=mask, batch=2)
    assert call.layouts == [VideoLayout(3, 4, 5, text_after=8, masked=(60, 67))]


def test_masks_that_differ_in_the_batch_give_each_element_its_layout():
    call = make_call(make_forward(HUNYUAN), tokens=68, mask=text_mask((66, 67), ()), batch=2)
    assert [layout.masked for layout in call.layouts] == [(66, 67), ()]


@pytest.mark.parametrize(
    "mask, reason",
    [
        (text_mask((59,)), "mask: it leaves out tokens of the video"),
        (text_mask(()) + 0.5, "mask: it gives keys different weights"),
        (torch.zeros(1, 68, 68), "mask: a mask of (1, 68, 68) is not the same for every query and head"),
        (torch.zeros(68, 68), "mask: a mask of (68, 68) is not the same for every query and head"),
        (torch.zeros(1, 2, 1, 68), "mask: a mask of (1, 2, 1, 68) is not the same for every query and head"),
        (torch.zeros(1, 1, 60), "mask: a mask of (1, 1, 60) is not the same for every query and head"),
    ],
    ids=["video", "bias", "full", "full-2d", "per-head", "short"],
)
def test_any_other_mask_stays_dense(mask, reason):
    assert reason_of(make_forward(HUNYUAN), tokens=68, mask=mask).startswith(reason)


def test_a_mask_is_read_once_a_forward(monkeypatch):
    read = []
    monkeypatch.setattr(forward_module, "masked_keys", lambda mask, tokens: read.append(mask) or [()])
    forward, mask = make_forward(HUNYUAN), text_mask(())
    for _ in range(3):
        make_call(forward, tokens=68, mask=mask)
    assert len(read) == 1


def test_an_accelerator_without_a_kernel_stays_dense_unless_torch_is_asked_for(monkeypatch):
    """The backend's answer counts; tests/kernels/test_backend.py has all of them."""
    status = forward_module.backend_status
    asked = []
    monkeypatch.setattr(forward_module, "backend_status", lambda device, *rest: asked.append(rest) or status(MPS, *rest))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert reason_of(make_forward(backend="auto")).startswith("backend: ")
    assert make_call(make_forward(backend="torch")) is not None
    assert asked == [(torch.float32, 128, "auto"), (torch.float32, 128, "torch")]


def test_the_hosts_own_grid_is_trusted():
    assert make_call(tokens=80, grid_sizes=(4, 4, 5)).layouts == [VideoLayout(4, 4, 5)]
