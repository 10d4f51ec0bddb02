"""A ComfyUI from before the attention override: nothing changes, and each node says why."""

from __future__ import annotations

import re

import pytest
import torch
from real_host import FIRST_VERSION, METHODS, reports


@pytest.mark.parametrize("family", ["wan21_t2v", "wan21_i2v"])
def test_the_render_is_the_unpatched_one_and_one_line_says_why(old_host, family):
    plain, _ = old_host.render(family)
    for method, name in METHODS.items():
        out, result = old_host.render(family, method)
        assert torch.equal(out, plain) and out.std() > 0
        assert not reports(result)
        (line,) = re.findall(r"\[sparse_videogen\].*", result.log)
        needed = f"needs ComfyUI {FIRST_VERSION} or newer, and this is {old_host.version}"
        assert line == f"[sparse_videogen] {name}: {needed}; the model passes through unchanged. Update ComfyUI"


def test_two_nodes_say_a_line_each(old_host):
    plain, _ = old_host.render("wan21_t2v")
    out, result = old_host.render("wan21_t2v", "SVG2Attention", before=[("SVGAttention", {})])
    assert torch.equal(out, plain)
    assert re.findall(r"\[sparse_videogen\] (\w+): needs ComfyUI", result.log) == ["SVG", "SVG2"]


def test_the_pack_is_loaded_without_a_complaint(old_host):
    log = old_host.server.log()
    assert METHODS.keys() <= old_host.server.object_info().keys()
    assert "IMPORT FAILED" not in log and "Error while calling comfy_entrypoint" not in log
