"""Token layouts per family."""

from __future__ import annotations

from itertools import accumulate
from types import SimpleNamespace

import pytest
import torch
from bare_models import model
from sparse_videogen.nodes.families import family_of
from sparse_videogen.nodes.layouts import forward_grid, token_layout, video_grid
from sparse_videogen.nodes.reasons import StayDense
from sparse_videogen.svg_core import VideoLayout

WAN = family_of(model("WanModel"))
LTX = model("LTXAVModel", None, base="LTXVModel", patchifier=SimpleNamespace(patch_size=(1, 1, 1)))


@pytest.mark.parametrize(
    "made, size, grid",
    [
        (model("WanModel"), (21, 90, 160), (21, 45, 80)),
        (model("WanModel"), (3, 7, 9), (3, 4, 5)),
        (model("WanModel", (1, 1, 1)), (5, 6, 7), (5, 6, 7)),
        # CogVideoX tells its patch in two attributes.
        (model("CogVideoXTransformer3DModel", 2, patch_size_t=None), (5, 8, 10), (5, 4, 5)),
        (model("CogVideoXTransformer3DModel", 2, patch_size_t=2), (5, 8, 10), (3, 4, 5)),
        (model("MiniMaxH3Model"), (3, 7, 9), (3, 4, 5)),
        (LTX, (3, 4, 5), (3, 4, 5)),
        (model("GeneralDIT", None, patch_temporal=1, patch_spatial=2), (3, 7, 9), (3, 4, 5)),
        (model("Anima", None, base="MiniTrainDIT", patch_temporal=1, patch_spatial=2), (1, 8, 10), (1, 4, 5)),
        (model("AsymmDiTJoint", 2), (3, 8, 10), (3, 4, 5)),
    ],
    ids=[
        *("whole", "odd", "no patches", "cogvideox", "cogvideox along time", "minimax", "ltx", "cosmos", "predict2", "mochi"),
    ],
)
def test_grid_rounds_up_to_whole_patches(made, size, grid):
    assert video_grid(family_of(made), made, (1, 16, *size)) == VideoLayout(*grid)


def test_an_image_model_has_no_grid():
    assert video_grid(WAN, model("WanModel"), (1, 16, 8, 8)) is None
    assert video_grid(WAN, model("WanModel", patch=2), (1, 16, 3, 8, 8)) is None
    assert forward_grid(WAN, model("WanModel"), {"x": torch.empty(1, 16, 8, 8), "time_dim_concat": torch.empty(1)}) is None


@pytest.mark.parametrize("x", [[], [None], "x", None])
def test_an_input_without_a_video_has_no_grid(x):
    assert forward_grid(WAN, model("WanModel"), {"x": x}) is None


def test_frames_that_phantom_appends_belong_to_the_grid():
    arguments = {"x": torch.empty(1, 16, 3, 8, 10), "time_dim_concat": torch.empty(1, 16, 2, 8, 10)}
    assert forward_grid(WAN, model("WanModel"), arguments) == VideoLayout(5, 4, 5)


def test_of_a_video_and_its_audio_the_video_has_the_grid():
    arguments = {"x": [torch.empty(1, 24, 3, 8, 10), torch.empty(1, 32, 2, 9)]}
    assert forward_grid(family_of(model("MiniMaxH3Model")), model("MiniMaxH3Model"), arguments) == VideoLayout(3, 4, 5)


def test_keyframes_at_the_end_of_the_latent_do_not_belong_to_the_grid():
    arguments = {"x": [torch.empty(1, 128, 5, 4, 5)], "keyframe_idxs": torch.empty(1, 3, 40, 2)}
    assert forward_grid(family_of(LTX), LTX, arguments) == VideoLayout(3, 4, 5)


GRID = VideoLayout(3, 4, 5)
IMAGE = torch.empty(1, 16, 1, 8, 10)
NOT_DESCRIBED = {"transformer_options": {}}


def packed(*segments: tuple[str, int]) -> dict:
    """Arguments with a description of the sequence, as MiniMax-H3 gives it in younger hosts."""
    stops = list(accumulate(size for _, size in segments))
    spans = [(stop - size, stop, kind) for stop, (kind, size) in zip(stops, segments, strict=True)]
    return {"transformer_options": {"minimax_h3_layout": SimpleNamespace(segments=spans)}}


@pytest.mark.parametrize(
    "made, tokens, arguments, frames, before, after",
    [
        (model("WanModel"), 60, {}, 3, 0, 0),
        (model("WanModel", ref_conv=True), 80, {"reference_latent": IMAGE}, 4, 0, 0),
        (model("WanModel", ref_conv=True), 67, {"reference_latent": IMAGE}, 3, 7, 0),
        (model("WanModel"), 120, {"context_latents": [IMAGE]}, 6, 0, 0),
        (model("WanModel"), 75, {"context_latents": [IMAGE]}, 3, 0, 15),
        (model("HumoWanModel", base="WanModel"), 80, {"reference_latent": IMAGE}, 3, 0, 20),
        (model("WanModel_S2V", base="WanModel"), 85, {}, 3, 0, 25),
        (model("SCAILWanModel", base="WanModel"), 75, {}, 3, 0, 15),
        (model("HunyuanVideo", video_first=True), 77, {}, 3, 0, 17),
        (model("HunyuanVideo", video_first=False), 77, {}, 3, 17, 0),
        (model("HunyuanVideo", video_first=True), 97, {"ref_latent": IMAGE}, 3, 20, 17),
        (model("HunyuanVideo", video_first=False), 97, {"ref_latent": IMAGE}, 3, 37, 0),
        (model("CogVideoXTransformer3DModel"), 70, {}, 3, 10, 0),
        (model("Kandinsky"), 60, {}, 3, 0, 0),
        (model("MiniMaxH3Model"), 95, NOT_DESCRIBED, 3, 35, 0),
        (model("MiniMaxH3Model"), 95, packed(("text", 12), ("audio", 20), ("video", 60), ("later", 3)), 3, 32, 3),
        (LTX, 100, {}, 5, 0, 0),
        (LTX, 100, {"keyframe_idxs": torch.empty(1, 3, 40, 2)}, 5, 0, 0),
        (LTX, 67, {"keyframe_idxs": torch.empty(1, 3, 20, 2)}, 3, 0, 7),
        (LTX, 80, {"keyframe_idxs": torch.empty(1, 3, 80, 2)}, 3, 0, 20),
        (model("AsymmDiTJoint", 2), 72, {}, 3, 0, 12),
    ],
    ids=[
        *("wan", "fun-control", "fun-control-other-size", "bernini", "bernini-other-size", "humo", "s2v", "scail"),
        *("hunyuan-old", "hunyuan-new", "hunyuan-old-reference", "hunyuan-new-reference", "cogvideox", "other"),
        *("minimax", "minimax-described", "ltx-generated-keyframes", "ltx-keyframes", "ltx-part-of-a-keyframe"),
        *("ltx-parts-of-keyframes", "mochi"),
    ],
)
def test_what_is_no_video_is_placed(made, tokens, arguments, frames, before, after):
    layout = token_layout(family_of(made), made, arguments, GRID, tokens)
    assert layout == VideoLayout(frames, 4, 5, text_before=before, text_after=after)


@pytest.mark.parametrize(
    "made, tokens, arguments",
    [
        (model("WanModel"), 59, {}),
        (model("WanModel"), 61, {}),
        (model("WanModel"), 80, {"reference_latent": IMAGE}),
        (model("WanModel", ref_conv=True), 80, {}),
        (model("HunyuanVideo", video_first=True), 70, {"ref_latent": IMAGE}),
        (model("Kandinsky"), 61, {}),
        (model("MiniMaxH3Model"), 70, packed(("text", 12), ("video", 58))),
        (model("GeneralDIT", None, patch_temporal=1, patch_spatial=2), 61, {}),
    ],
    ids=[
        *("fewer", "more", "reference-without-conv", "conv-without-reference", "short-reference", "other"),
        *("minimax-described-otherwise", "cosmos"),
    ],
)
def test_a_surplus_that_is_not_understood_is_a_reason(made, tokens, arguments):
    with pytest.raises(StayDense, match=f"layout: the call has {tokens} tokens and the 3 x 4 x 5 grid has 60"):
        token_layout(family_of(made), made, arguments, GRID, tokens)
