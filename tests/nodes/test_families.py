"""Token layouts per family; needs no host: models are stood in by bare modules of the same class names."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.nodes.families import OTHER, family_of, forward_grid, layers, token_layout, video_grid
from sparse_videogen.nodes.reasons import StayDense
from sparse_videogen.svg_core import VideoLayout


def model(class_name: str, patch=(1, 2, 2), video_first: bool | None = None, base: str | None = None, **attributes):
    """A bare module whose class, or base class, has the name that a host's model has."""
    parent = type(base, (torch.nn.Module,), {}) if base else torch.nn.Module
    made = type(class_name, (parent,), {})()
    vars(made).update({"patch_size": patch, "ref_conv": None, **attributes})
    if video_first is not None:
        block = torch.nn.Identity()
        block.flipped_img_txt = video_first
        made.double_blocks = torch.nn.ModuleList([block])
    return made


def test_the_most_special_family_wins():
    assert family_of(model("VaceWanModel", base="WanModel")).name == "Wan"
    assert family_of(model("HumoWanModel", base="WanModel")).name == "Wan HuMo"


def test_an_unknown_model_that_cuts_videos_into_patches_is_other():
    assert family_of(model("Kandinsky")) is OTHER
    assert family_of(model("Flux", patch=2)) is None
    assert family_of(model("Flux", patch=None)) is None


@pytest.mark.parametrize(
    "made, size, grid",
    [
        (model("WanModel"), (21, 90, 160), (21, 45, 80)),
        (model("WanModel"), (3, 7, 9), (3, 4, 5)),
        (model("WanModel", (1, 1, 1)), (5, 6, 7), (5, 6, 7)),
        # CogVideoX tells its patch in two attributes.
        (model("CogVideoXTransformer3DModel", 2, patch_size_t=None), (5, 8, 10), (5, 4, 5)),
        (model("CogVideoXTransformer3DModel", 2, patch_size_t=2), (5, 8, 10), (3, 4, 5)),
    ],
    ids=["whole", "odd", "no patches", "cogvideox", "cogvideox along time"],
)
def test_grid_rounds_up_to_whole_patches(made, size, grid):
    assert video_grid(made, (1, 16, *size)) == VideoLayout(*grid)


def test_an_image_model_has_no_grid():
    assert video_grid(model("WanModel"), (1, 16, 8, 8)) is None
    assert video_grid(model("WanModel", patch=2), (1, 16, 3, 8, 8)) is None
    assert forward_grid(model("WanModel"), {"x": torch.empty(1, 16, 8, 8), "time_dim_concat": torch.empty(1)}) is None


def test_frames_that_phantom_appends_belong_to_the_grid():
    arguments = {"x": torch.empty(1, 16, 3, 8, 10), "time_dim_concat": torch.empty(1, 16, 2, 8, 10)}
    assert forward_grid(model("WanModel"), arguments) == VideoLayout(5, 4, 5)


GRID = VideoLayout(3, 4, 5)
IMAGE = torch.empty(1, 16, 1, 8, 10)


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
    ],
    ids=[
        *("wan", "fun-control", "fun-control-other-size", "bernini", "bernini-other-size", "humo", "s2v", "scail"),
        *("hunyuan-old", "hunyuan-new", "hunyuan-old-reference", "hunyuan-new-reference", "cogvideox", "other"),
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
    ],
    ids=["fewer", "more", "reference-without-conv", "conv-without-reference", "short-reference", "other"],
)
def test_a_surplus_that_is_not_understood_is_a_reason(made, tokens, arguments):
    with pytest.raises(StayDense, match=f"layout: the call has {tokens} tokens and the 3 x 4 x 5 grid has 60"):
        token_layout(family_of(made), made, arguments, GRID, tokens)


def test_layers_and_heads_are_read_from_the_model():
    made = model("WanModel", blocks=[None] * 40, num_heads=40, dim=5120)
    assert layers(family_of(made), made) == 40 and family_of(made).heads(made) == (40, 128)
    assert layers(OTHER, model("Kandinsky")) == 0
