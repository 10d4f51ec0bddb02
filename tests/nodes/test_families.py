"""Token layouts per family; needs no host: models are stood in by bare modules of the same class names."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.nodes.families import family_of, place_text, video_grid
from sparse_videogen.svg_core import VideoLayout


def model(class_name: str, patch=(1, 2, 2), video_first: bool | None = None, base: str | None = None):
    """A bare module whose class, or base class, has the name that a host's model has."""
    parent = type(base, (torch.nn.Module,), {}) if base else torch.nn.Module
    made = type(class_name, (parent,), {})()
    made.patch_size = patch
    if video_first is not None:
        block = torch.nn.Identity()
        block.flipped_img_txt = video_first
        made.double_blocks = torch.nn.ModuleList([block])
    return made


def test_subclasses_belong_to_the_family():
    assert family_of(model("VaceWanModel", base="WanModel")).name == "Wan"
    assert family_of(model("Flux")) is None


@pytest.mark.parametrize(
    "size, patch, grid",
    [((21, 90, 160), (1, 2, 2), (21, 45, 80)), ((3, 7, 9), (1, 2, 2), (3, 4, 5)), ((5, 6, 7), (1, 1, 1), (5, 6, 7))],
)
def test_grid_rounds_up_to_whole_patches(size, patch, grid):
    assert video_grid(model("WanModel", patch), torch.empty(1, 16, *size)) == VideoLayout(*grid)


def test_an_image_model_has_no_grid():
    assert video_grid(model("WanModel"), torch.empty(1, 16, 8, 8)) is None
    assert video_grid(model("WanModel", patch=2), torch.empty(1, 16, 3, 8, 8)) is None


GRID = VideoLayout(3, 4, 5)


@pytest.mark.parametrize(
    "made, tokens, reference, before, after",
    [
        (model("WanModel"), 60, 0, 0, 0),
        (model("HunyuanVideo", video_first=True), 77, 0, 0, 17),
        (model("HunyuanVideo", video_first=False), 77, 0, 17, 0),
        (model("HunyuanVideo", video_first=True), 97, 20, 20, 17),
        (model("HunyuanVideo", video_first=False), 97, 20, 37, 0),
        (model("CogVideoXTransformer3DModel"), 70, 0, 10, 0),
    ],
    ids=["wan", "hunyuan-old", "hunyuan-new", "hunyuan-old-reference", "hunyuan-new-reference", "cogvideox"],
)
def test_text_is_placed(made, tokens, reference, before, after):
    layout = place_text(family_of(made), made, GRID, tokens, reference)
    assert layout == VideoLayout(3, 4, 5, text_before=before, text_after=after)


@pytest.mark.parametrize("tokens", [59, 61])
def test_a_surplus_that_is_not_understood_is_a_reason(tokens):
    made = model("WanModel")
    assert place_text(family_of(made), made, GRID, tokens, 0).startswith(f"layout: {tokens} tokens, the 3 x 4 x 5 grid has 60")
