"""Models stood in by bare modules of the same class names, for tests that need no host."""

from __future__ import annotations

import torch


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
