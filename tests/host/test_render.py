"""Renders of every family through the HTTP API of a real ComfyUI."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest
import torch
from comfy_host import latent
from real_host import EVERYTHING, METHODS, reports
from sparse_videogen.nodes.lines import log_line
from tiny_checkpoints import FAMILIES
from tiny_prompts import node

# Attention that old hosts do not hand their options to.
KEPT_FROM_OVERRIDES = {"wan_s2v"}
# Families whose attention has tokens that are no video: text, sound, references, poses, parts of keyframes.
WITH_TEXT = {
    *("wan_s2v", "wan_humo", "wan_scail", "wan_scail2", "hunyuan_t2v", "hunyuan_i2v", "hunyuan_custom", "hunyuan15"),
    *("cogvideox", "cogvideox_i2v", "minimax_h3", "minimax_h3_fl2va", "minimax_h3_ref2va", "ltx2_guide_part", "mochi"),
}
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
    if FAMILIES[family].dense:
        assert torch.equal(out, control(family))
        (report,) = reports(result)
        assert report["dense_reasons"].keys() == {FAMILIES[family].dense} and len(report["layers"]["density"]) == 3
        return
    if family in KEPT_FROM_OVERRIDES and "not_reached" in reports(result)[0]["dense_reasons"]:
        assert torch.equal(out, control(family)) and "does not reach this node" in result.log
        return
    for report in reports(result):
        assert report["sparse_calls"] > 0 and 0 < report["density"] < 0.95
        assert report["dense_reasons"].keys() == {"dense_blocks"}
    assert not torch.equal(out, control(family))
    assert (out - control(family)).norm() / control(family).norm() < 0.3


BATCHINGS = {"batch": {"batch": 2}, "cfg-1": {"cfg": 1.0}, "unequal-text": {"negative_tokens": 30}}
SIZES = {"prime": (208, 112, 5), "tall": (64, 208, 21), "image": (176, 176, 1)}
SIZES = {name: dict(zip(("width", "height", "frames"), size, strict=True)) for name, size in SIZES.items()}
# Of each other kind of token sequence one.
KINDS = (
    *("minimax_h3", "minimax_h3_ref2va", "ltx2", "ltx2_keyframes", "ltx2_guide_part", "ltxv", "mochi"),
    *("cosmos1", "cosmos_predict2", "kandinsky5", "kandinsky5_pro", "wan_scail2", "wan_animate2"),
)


# Those that themselves refuse an odd number of latent cells, or did in older hosts.
EVEN = {"hunyuan_t2v", "ltx2_guide_part", "mochi", "cosmos1", "cosmos_predict2", "kandinsky5", "kandinsky5_pro"}


def odd_size(family) -> dict:
    """17 x 11 latent cells, which most models pad to whole patches; else 18 x 10, of which patches make 9 x 5 tokens."""
    width, height = (18, 10) if family in EVEN else (17, 11)
    return {"width": width * FAMILIES[family].downscale, "height": height * FAMILIES[family].downscale, "frames": 5}


def varied() -> Iterator:
    """Families with options of their prompts, for most all at once; some have one video at a time."""
    for family in ("wan21_t2v", "hunyuan_t2v"):
        named = {**BATCHINGS, "odd": odd_size(family), **SIZES}
        yield from (pytest.param(family, options, id=f"{family}-{name}") for name, options in named.items())
    for family in KINDS:
        batch = {} if FAMILIES[family].one_video else BATCHINGS["batch"]
        yield pytest.param(family, {**batch, **BATCHINGS["unequal-text"], **odd_size(family)}, id=f"{family}-varied")


VARIED = list(varied())


@pytest.mark.parametrize("family, options", [*(pytest.param(family, {}, id=family) for family in LOADABLE), *VARIED])
def test_everything_chosen_reproduces_the_unpatched_render(host, control, family, method, options):
    skip_unless_loadable(host, family)
    everything = {"start_percent": 0.0, "dense_blocks": "", **EVERYTHING[method]}
    out, result = host.render(family, method, prompt_options=options, **everything)
    torch.testing.assert_close(out, control(family, **options), atol=1e-4, rtol=1e-4)
    (*_, report) = reports(result)
    assert report["sparse_calls"] == report["calls"] > 0 or family in KEPT_FROM_OVERRIDES or FAMILIES[family].dense


@pytest.mark.parametrize("family, options", [case for case in VARIED if "width" in case.values[1]])
def test_any_size(host, family, method, options):
    skip_unless_loadable(host, family)
    out, _ = host.render(family, method, start_percent=0.0, prompt_options=options)
    assert out.isfinite().all()


DENSE = {"start": {"start_percent": 0.99}, "blocks": {"dense_blocks": "0-99"}, "tokens": {"min_tokens": 10_000}}


@pytest.mark.parametrize(
    "family, inputs",
    [
        *(pytest.param(f, inputs, id=f"{f}-{name}") for f in ("wan21_t2v", "hunyuan_t2v") for name, inputs in DENSE.items()),
        *(pytest.param(family, DENSE["start"], id=family) for family in KINDS),
    ],
)
def test_a_dense_run_is_the_unpatched_render_bit_for_bit(host, control, family, method, inputs):
    skip_unless_loadable(host, family)
    out, result = host.render(family, method, **inputs)
    assert torch.equal(out, control(family))
    (report,) = reports(result)
    assert report["sparse_calls"] == 0 and report["calls"] > 0


# Family -> preset -> what its prompt has for it.
NAMED = {
    "minimax_h3": {"MiniMax-H3": {"steps": 20, "frames": 9}, "MiniMax-H3, 4 steps": {"cfg": 1.0}},
    "ltx2": {"LTX-2": {"steps": 8, "cfg": 1.0}},
}


@pytest.mark.parametrize("family, preset", [(family, preset) for family, presets in NAMED.items() for preset in presets])
def test_the_presets_of_a_family(host, family, preset, method):
    """SVG2 runs sparse from the first step on, SVG from its second or third."""
    skip_unless_loadable(host, family)
    options = NAMED[family][preset]
    out, result = host.render(family, method, prompt_options=options, preset=preset)
    (report,) = reports(result)
    layers, dense = len(report["layers"]["density"]), report["dense_reasons"]
    steps, passes = options.get("steps", 4), 1 if options.get("cfg") else 2
    assert out.isfinite().all() and report["calls"] == steps * layers * passes
    assert dense.pop("dense_blocks") == report["calls"] // layers
    assert dense.keys() == ({"start_percent"} if method == "SVGAttention" else set()) and report["sparse_calls"] > 0


# Nothing stands for the keys that are not read, so that the result can be computed anew.
WITHOUT_A_TAIL = {"SVGAttention": {}, "SVG2Attention": {"tail": "off"}}


@pytest.mark.parametrize("family", LOADABLE)
def test_text_and_what_goes_with_it_is_read_by_all_and_reads_all(host, family, method):
    """Against float64 attention over the keys that each row is to read."""
    skip_unless_loadable(host, family)
    inputs = {"start_percent": 0.0, "dense_blocks": "", **WITHOUT_A_TAIL[method]}
    options = {"steps": 2, "negative_tokens": 30}
    _, result = host.render(family, method, prompt_options=options, after=[("SVGTestPlans", {})], **inputs)
    calls = [json.loads(line.split("sparse call: ")[1]) for line in result.log.splitlines() if "sparse call: " in line]
    assert len(calls) == sum(report["sparse_calls"] for report in reports(result))
    stays_dense = FAMILIES[family].dense or any("not_reached" in report["dense_reasons"] for report in reports(result))
    assert calls or stays_dense
    for call in calls:
        assert not call["tail"] and call["once"] and call["reads_text"] and call["text_reads_all"] and call["error"] < 1e-5
        assert call["video"] > 300 and (call["text"] > 0) == (family in WITH_TEXT)


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
