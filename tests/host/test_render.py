"""Renders of every family through the HTTP API of a real ComfyUI."""

from __future__ import annotations

import re

import pytest
import torch
from comfy_host import latent
from real_host import EVERYTHING, METHODS, reports
from sparse_videogen.nodes.lines import log_line
from tiny_checkpoints import FAMILIES
from tiny_prompts import node

# Attention that old hosts do not hand their options to.
KEPT_FROM_OVERRIDES = {"wan_s2v"}
LOADABLE = [name for name in FAMILIES if not name.endswith("_low")]


def skip_unless_loadable(host, family):
    if family not in host.families:
        pytest.skip(f"ComfyUI {host.version} does not load {family}")


@pytest.mark.parametrize("family", LOADABLE)
def test_every_family_samples(host, control, family, method, record_property):
    """What it records is the table in docs/compatibility.md; see compatibility.py."""
    skip_unless_loadable(host, family)
    out, result = host.render(family, method, start_percent=0.0)
    assert out.isfinite().all()
    record_property("reports", reports(result))
    if family in KEPT_FROM_OVERRIDES and "not_reached" in reports(result)[0]["dense_reasons"]:
        assert torch.equal(out, control(family)) and "does not reach this node" in result.log
        return
    for report in reports(result):
        assert report["sparse_calls"] > 0 and 0 < report["density"] < 0.95
        assert report["dense_reasons"].keys() == {"dense_blocks"}
    assert not torch.equal(out, control(family))
    assert (out - control(family)).norm() / control(family).norm() < 0.3


BATCHINGS = {"batch": {"batch": 2}, "cfg-1": {"cfg": 1.0}, "unequal-text": {"negative_tokens": 30}}
# The odd one is 17 x 11 latent cells: padded to whole patches by Wan, refused by HunyuanVideo itself.
SIZES = {"odd": (136, 88, 5), "prime": (208, 112, 5), "tall": (64, 208, 21), "image": (176, 176, 1)}
SIZES = {name: dict(zip(("width", "height", "frames"), size, strict=True)) for name, size in SIZES.items()}
VARIED = [
    pytest.param(family, options, id=f"{family}-{name}")
    for family in ("wan21_t2v", "hunyuan_t2v")
    for name, options in (BATCHINGS | SIZES).items()
    if (family, name) != ("hunyuan_t2v", "odd")
]


@pytest.mark.parametrize("family, options", [*(pytest.param(family, {}, id=family) for family in LOADABLE), *VARIED])
def test_everything_chosen_reproduces_the_unpatched_render(host, control, family, method, options):
    skip_unless_loadable(host, family)
    everything = {"start_percent": 0.0, "dense_blocks": "", **EVERYTHING[method]}
    out, result = host.render(family, method, prompt_options=options, **everything)
    torch.testing.assert_close(out, control(family, **options), atol=1e-4, rtol=1e-4)
    (*_, report) = reports(result)
    assert report["sparse_calls"] == report["calls"] > 0 or family in KEPT_FROM_OVERRIDES


@pytest.mark.parametrize("family, options", [case for case in VARIED if "width" in case.values[1]])
def test_any_size(host, family, method, options):
    out, _ = host.render(family, method, start_percent=0.0, prompt_options=options)
    assert out.isfinite().all()


@pytest.mark.parametrize("family", ["wan21_t2v", "hunyuan_t2v"])
@pytest.mark.parametrize(
    "inputs",
    [{"start_percent": 0.99}, {"dense_blocks": "0-99"}, {"min_tokens": 10_000}],
    ids=["start", "blocks", "tokens"],
)
def test_a_dense_run_is_the_unpatched_render_bit_for_bit(host, control, family, method, inputs):
    out, result = host.render(family, method, **inputs)
    assert torch.equal(out, control(family))
    (report,) = reports(result)
    assert report["sparse_calls"] == 0 and report["calls"] > 0


@pytest.mark.parametrize("family", ["wan21_t2v", "wan22_t2v_high", "hunyuan_i2v"])
def test_two_equal_prompts_give_equal_latents(host, family, method):
    first, _ = host.render(family, method)
    second, _ = host.render(family, method)
    assert torch.equal(first, second)


def test_the_unpatched_branch_never_notices(host, control, method):
    prompt = host.prompt("wan21_t2v", method)
    prompt["sampler_plain"] = node("KSampler", **prompt["sampler"]["inputs"] | {"model": ["model", 0]})
    prompt["save_plain"] = node("SaveLatent", samples=["sampler_plain", 0], filename_prefix="plain")
    result = host.server.queue(prompt)
    assert torch.equal(latent(result, node="save_plain"), control("wan21_t2v"))
    assert not torch.equal(latent(result), control("wan21_t2v"))


@pytest.mark.parametrize("method", [None, *METHODS])
def test_the_global_random_state_is_untouched(host, method):
    states = []
    for which in (None, method):
        prompt = host.prompt("wan21_t2v", which)
        prompt["state"] = node("SVGDemoRandomState", samples=["sampler", 0])
        prompt["save"]["inputs"]["samples"] = ["state", 0]
        states.append(host.server.queue(prompt).outputs["state"]["text"])
    assert states[0] == states[1]


def test_the_line_of_a_run_and_its_event_say_the_same(host):
    _, result = host.render("hunyuan_t2v", "SVG2Attention", start_percent=0.2, dense_blocks="0, 2")
    (report,) = reports(result)
    reasons = report["dense_reasons"]
    assert report["node"] == "svg_model" and report["method"] == "SVG2"
    assert report["calls"] == report["sparse_calls"] + sum(reasons.values())
    assert re.findall(r"\[sparse_videogen\] (SVG2: \d.*)", result.log) == [log_line(report)]
    # 4 steps of 3 or more layers, cond and uncond in one batch: two layers dense always, the others before 20 %
    layers = report["calls"] // 4
    assert reasons["dense_blocks"] == 8
    assert reasons["start_percent"] % (layers - 2) == 0 and reasons["start_percent"] > 0


def test_end_percent_returns_to_dense(host):
    _, result = host.render("wan21_t2v", "SVGAttention", start_percent=0.0, end_percent=0.3, dense_blocks="")
    (report,) = reports(result)
    assert report["dense_reasons"].keys() == {"end_percent"} and 0 < report["sparse_calls"] < report["calls"] == 12
