"""Beside what people put into the same graph: samplers, guiders, caches, LoRA, compilation, other packs' overrides.

Most compare a graph with our node, set to leave nothing out, to the same graph without it: whatever the other
nodes do, they must do the same.
"""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from comfy_host import latent
from real_host import EVERYTHING, METHODS, reports
from tiny_checkpoints import write_lora
from tiny_prompts import node

ALL_STEPS = {"start_percent": 0.0, "dense_blocks": ""}
SAMPLERS = ["heun", "dpmpp_2s_ancestral", "dpmpp_2m", "uni_pc", "er_sde", "res_multistep", "lcm"]
WHOLE = {"start_percent": 0.0, "end_percent": 1.0}
WINDOWS = {"context_length": 13, "context_overlap": 5, "context_schedule": "standard_static", "context_stride": 1}
# Inputs of younger hosts; older ones pass them over.
WINDOWS |= {"retain_first_frame": False, "split_conds_to_windows": False}
PATCHES = {
    "shift": ("ModelSamplingSD3", {"shift": 3.0}),
    "easy-cache": ("EasyCache", {"reuse_threshold": 0.2, "verbose": False, **WHOLE}),
    "lora": ("LoraLoaderModelOnly", {"lora_name": "tiny_lora.safetensors", "strength_model": 1.0}),
    "cfg-zero-star": ("CFGZeroStar", {}),
    "skip-layer": (
        "SkipLayerGuidanceDiT",
        {"double_layers": "1", "single_layers": "1", "scale": 3.0, "rescaling_scale": 0.0, **WHOLE},
    ),
    "windows": ("WanContextWindowsManual", {"closed_loop": False, "fuse_method": "pyramid", "freenoise": False, **WINDOWS}),
}


@pytest.fixture(scope="module", autouse=True)
def lora(host):
    write_lora(host.server.base_dir / "models" / "loras" / "tiny_lora.safetensors")


def assert_as_without_it(host, family, method, *, prompt_options=None, change=lambda prompt: prompt, **patches):
    """The composed graph gives the same with our node leaving nothing out, another when it does; the sparse reports."""
    plain = latent(host.server.queue(change(host.prompt(family, prompt_options=prompt_options, **patches))))
    everything = host.prompt(family, method, prompt_options=prompt_options, **patches, **ALL_STEPS, **EVERYTHING[method])
    result = host.server.queue(change(everything))
    assert all(report["sparse_calls"] == report["calls"] > 0 for report in reports(result))
    torch.testing.assert_close(latent(result), plain, atol=2e-3, rtol=2e-3)
    result = host.server.queue(change(host.prompt(family, method, prompt_options=prompt_options, **patches)))
    assert latent(result).isfinite().all() and not torch.equal(latent(result), plain)
    return reports(result)


def changed(name, **inputs):
    def change(prompt):
        prompt[name]["inputs"] |= inputs
        return prompt

    return change


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers(host, sampler):
    (report,) = assert_as_without_it(host, "wan21_t2v", "SVG2Attention", change=changed("sampler", sampler_name=sampler))
    assert report["dense_reasons"].keys() == {"start_percent", "dense_blocks"}


@pytest.mark.parametrize("steps", [4, 8])
def test_distilled_schedules(host, steps):
    """Few steps at cfg 1: 20 % of a shifted schedule is the first of four, the first two of eight."""
    options, lcm = {"steps": steps, "cfg": 1.0}, changed("sampler", sampler_name="lcm")
    (report,) = assert_as_without_it(host, "wan21_t2v", "SVG2Attention", prompt_options=options, change=lcm)
    assert report["calls"] == 3 * steps and report["dense_reasons"]["start_percent"] == 2 * steps // 4


@pytest.mark.parametrize("side, method", [("before", "SVGAttention"), ("after", "SVG2Attention")])
@pytest.mark.parametrize("name", PATCHES)
def test_model_patches(host, side, method, name):
    (report,) = assert_as_without_it(host, "wan21_t2v", method, **{side: [PATCHES[name]]})
    assert report["dense_reasons"].keys() <= {"start_percent", "dense_blocks"}


@pytest.mark.parametrize("side", ["before", "after"])
def test_a_step_that_a_cache_leaves_out_is_no_forward(host, side):
    cache = ("EasyCache", {"reuse_threshold": 3.0, "verbose": False, **WHOLE})
    result = host.server.queue(host.prompt("wan21_t2v", "SVG2Attention", prompt_options={"steps": 10}, **{side: [cache]}))
    left_out = int(re.search(r"EasyCache - skipped (\d+)/10 steps", result.log)[1])
    (report,) = reports(result)
    assert left_out > 0 and report["calls"] == 3 * (10 - left_out)
    assert "not_reached" not in report["dense_reasons"]


# Families with attention of another kind, and the modules of theirs whose attention is the video's.
VIDEOS_OWN = {
    "wan21_t2v": r"blocks\.\d+\.self_attn",
    "wan21_i2v": r"blocks\.\d+\.self_attn",
    "wan_vace": r"(vace_)?blocks\.\d+\.self_attn",
    "wan_humo": r"blocks\.\d+\.self_attn",
    "hunyuan_t2v": r"(double|single)_blocks\.\d+",
    "hunyuan15": r"(double|single)_blocks\.\d+",
    "cogvideox": r"blocks\.\d+",
    "kandinsky5": r"visual_transformer_blocks\.\d+\.self_attention",
    "minimax_h3": r"blocks\.\d+\.attn",
    "ltx2": r"transformer_blocks\.\d+\.attn1",
    "cosmos1": r"blocks\.block\d+\.blocks\.0\.block\.attn",
    "cosmos_predict2": r"blocks\.\d+\.self_attn",
    "mochi": r"blocks\.\d+\.attn",
}


@pytest.mark.parametrize("tokens", [480, 600], ids=["as long", "longer"])
@pytest.mark.parametrize("family", VIDEOS_OWN)
def test_attention_of_another_kind_as_long_as_the_videos_stays_the_models(host, family, tokens):
    """As many tokens of text as of video, or more: just the video's own attention is taken."""
    if family not in host.families:
        pytest.skip(f"ComfyUI {host.version} does not load {family}")
    options = {"text_tokens": tokens, "steps": 2}
    whose = [("SVGTestWhoseAttention", {})]
    out, result = host.render(family, "SVG2Attention", prompt_options=options, after=whose, **ALL_STEPS)
    (report,) = reports(result)
    assert out.isfinite().all() and report["dense_reasons"] == {}
    taken = Counter(re.findall(r"whose attention: (\S+)", result.log))
    assert all(re.fullmatch(VIDEOS_OWN[family], name) for name in taken)
    assert set(taken.values()) == {report["calls"] // len(taken)}  # each as often as the others
    blocks = {int(re.search(r"\d+", name)[0]) for name in taken if not name.startswith(("vace", "single"))}
    assert blocks == set(range(len(blocks))) and len(report["layers"]["density"]) >= len(blocks)


def test_layers_are_counted_right_where_guidance_leaves_one_out(host):
    """LTX does not number its layers; its spatio-temporal guidance leaves the attention of some out of a pass of its own."""
    if "LTXVSpatioTemporalGuidance" not in host.server.object_info():
        pytest.skip(f"ComfyUI {host.version} has no spatio-temporal guidance")
    schedule = {"start_percent": 0.0, "end_percent": 1.0}
    guided = [("LTXVSpatioTemporalGuidance", {"scale": 1.0, "blocks": "1", **schedule})]
    inputs = {"start_percent": 0.0, "dense_blocks": "2"}
    _, result = host.render("ltx2", "SVG2Attention", before=guided, **inputs)
    (report,) = reports(result)
    # In each of the 4 steps three layers with both conditionings in one batch, then two of them once more.
    assert report["calls"] == 4 * (3 + 2) and report["dense_reasons"] == {"dense_blocks": 4 * (1 + 1)}


def test_unsampling_numbers_its_steps_as_they_come(host):
    def change(prompt):
        prompt = custom_sampling("CFGGuider")(prompt)
        prompt["flip"] = node("FlipSigmas", sigmas=["sigmas", 0])
        prompt["sampler"]["inputs"]["sigmas"] = ["flip", 0]
        return prompt

    result = host.server.queue(change(host.prompt("wan21_t2v", "SVG2Attention", start_percent=0.5)))
    (report,) = reports(result)
    steps = [data["step"] for kind, data in result.events if kind == "sparse_videogen.step"]
    assert steps == [step["step"] for step in report["steps"]] == [0, 1, 2, 3]
    # From the clean end of the schedule to the noisy one: sparse first.
    assert [any(step["density"][1:]) for step in report["steps"]] == [True, True, True, False]


def test_context_windows_keep_their_states_apart(host):
    """Two windows of 4 of the 5 frames: as many calls twice over, all sparse."""
    result = host.server.queue(host.prompt("wan21_t2v", "SVG2Attention", before=[PATCHES["windows"]], **ALL_STEPS))
    (report,) = reports(result)
    assert report["sparse_calls"] == report["calls"] == 2 * 4 * 3


def custom_sampling(guider: str, **guider_inputs):
    """Replaces KSampler by SamplerCustomAdvanced with a guider of this kind."""

    def change(prompt):
        old = prompt["sampler"]["inputs"]
        model, cond = {"model": old["model"]}, {name: old[name] for name in ("positive", "negative", "cfg")}
        prompt["guider"] = node(guider, **model, **cond, **guider_inputs)
        prompt["sigmas"] = node("BasicScheduler", **model, scheduler="simple", steps=old["steps"], denoise=1.0)
        prompt["noise"] = node("RandomNoise", noise_seed=5)
        prompt["kind"] = node("KSamplerSelect", sampler_name="euler")
        links = {"noise": "noise", "guider": "guider", "sampler": "kind", "sigmas": "sigmas", "latent_image": "latent"}
        prompt["sampler"] = node("SamplerCustomAdvanced", **{name: [source, 0] for name, source in links.items()})
        return prompt

    return change


def test_three_conditionings(host):
    def change(prompt):
        prompt["empty"] = node("SVGDemoConditioning", **prompt["negative"]["inputs"] | {"seed": 77})
        return custom_sampling("PerpNegGuider", empty_conditioning=["empty", 0], neg_scale=1.0)(prompt)

    assert_as_without_it(host, "wan21_t2v", "SVG2Attention", change=change)


def test_a_second_sampler_goes_back_to_noise(host):
    """A restart: the first sampler's result, half noised again, and a run of its own."""

    def change(prompt):
        again = {"latent_image": ["sampler", 0], "denoise": 0.5, "seed": 9}
        prompt["again"] = node("KSampler", **prompt["sampler"]["inputs"] | again)
        prompt["save"]["inputs"]["samples"] = ["again", 0]
        return prompt

    first, second = assert_as_without_it(host, "wan21_t2v", "SVG2Attention", change=change)
    assert first["dense_reasons"]["start_percent"] > 0 and "start_percent" not in second["dense_reasons"]


def test_fp8_weights(host):
    assert_as_without_it(host, "wan21_t2v", "SVG2Attention", change=changed("model", weight_dtype="fp8_e4m3fn"))


OTHER = ("SVGTestOtherOverride", {})


@pytest.mark.parametrize("side", ["before", "after"])
def test_another_packs_override_keeps_the_calls_that_stay_dense(host, control, method, side):
    alone = latent(host.server.queue(host.prompt("wan21_t2v", before=[OTHER])))
    result = host.server.queue(host.prompt("wan21_t2v", method, dense_blocks="0-99", **{side: [OTHER]}))
    assert torch.equal(latent(result), alone) and not torch.equal(alone, control("wan21_t2v"))
    said = result.log.count("another node replaced or removed the attention override")
    assert said == (1 if side == "after" else 0)
    result = host.server.queue(host.prompt("wan21_t2v", method, **{side: [OTHER]}))
    assert reports(result)[0]["sparse_calls"] > 0 and not torch.equal(latent(result), alone)


def test_dense_calls_that_go_to_a_sparse_override_are_said_not_to_be_exact(host, method):
    name, sparse = "comfy_extras.nodes_sparse_attention", ("SVGTestSparseOverride", {})
    expected = host.render("wan21_t2v", method)[0]
    out, result = host.render("wan21_t2v", method, after=[sparse])
    assert reports(result)[0]["inexact_dense"] == name and not torch.equal(out, expected)
    assert result.log.count(f"calls that stay dense go to the attention override of {name}") == 1
    assert f"The dense calls may not be exact: {name}, which seems to be sparse itself" in result.log
    out, result = host.render("wan21_t2v", method, after=[sparse], dense_attention="host")
    assert reports(result)[0]["inexact_dense"] is None and torch.equal(out, expected)


def test_an_override_removed_in_mid_run_is_put_back(host, method):
    expected = host.render("wan21_t2v", method)[0]
    result = host.server.queue(host.prompt("wan21_t2v", method, after=[("SVGTestRemoveOverride", {})]))
    assert torch.equal(latent(result), expected)
    assert result.log.count("another node replaced or removed the attention override") == 1


def test_two_branches_with_their_own_settings(host):
    expected = [host.render("wan21_t2v", method)[0] for method in METHODS]
    prompt, other = (host.prompt("wan21_t2v", method) for method in METHODS)
    for name in ("svg_model", "sampler", "save"):
        inputs = other[name]["inputs"]
        links = {key: [f"b_{v[0]}", 0] for key, v in inputs.items() if v in (["svg_model", 0], ["sampler", 0])}
        prompt[f"b_{name}"] = {**other[name], "inputs": {**inputs, **links}}
    result = host.server.queue(prompt)
    assert torch.equal(latent(result), expected[0]) and torch.equal(latent(result, node="b_save"), expected[1])
    assert {report["node"] for report in reports(result)} == {"svg_model", "b_svg_model"}


def test_another_resolution_or_unloaded_models_between_runs(host, control, method):
    first = host.render("wan21_t2v", method)[0]
    larger = {"width": 256, "height": 160, "frames": 9}
    assert_as_without_it(host, "wan21_t2v", method, prompt_options=larger)
    assert torch.equal(host.render("wan21_t2v", method)[0], first)
    host.server.free_memory()
    assert torch.equal(host.render("wan21_t2v", method)[0], first)
    assert torch.equal(host.render("wan21_t2v")[0], control("wan21_t2v"))
