"""The nodes for raylight in a real ComfyUI, on two Ray actors: they patch, sample, take the patch off, and report as one."""

from __future__ import annotations

import json
import math

import pytest
from in_process import run_in_host
from processes import ENGINES, NO_ENGINES
from ranks import missing
from ray_actors import run_beside_actors
from workflow_render import FOR_RAYLIGHT, WORKFLOWS, to_prompt

PLAIN = """
workers = actors(shared=False)
plain = sampled(workers)
traces = lambda: ray.get([one.model_function_runner_get_values.remote(
    lambda model: [model.model_options.get("transformer_options", {}), model.wrappers, model.attachments])
    for one in workers["workers"]])
untouched = str(traces())
said.clear()
for method in NODES:
    ours = with_node(workers, method)
    first, again = sampled(ours), sampled(ours)
    reports = nodes_ray.reports_of(ours)
    report = next(iter(reports.values()))
    removed = sampled(workers)
    tell(
        method,
        far=[far(out, sampled_alone(alone("wan21_t2v", method))) for out in first],
        again=all(map(torch.equal, first, again)),
        off=all(map(torch.equal, removed, plain)),
        changed=far(first[0], plain[0]),
        reports=[report["line"] for report in reports.values()],
        node=report["node"],
    )
left = [len(wrappers) for options, kinds, attached in traces() for wrappers in (*kinds.values(), options, attached)]
tell("left in the workers", things=left)

from types import SimpleNamespace
import folder_paths
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from sparse_videogen.nodes.report import SVGReport
folder_paths.set_temp_directory(checkpoints)
ours = with_node(workers, "SVG2")
link = {"inputs": {"ray_actors": ["7", 0]}}
prompt = DynamicPrompt({"7": {"inputs": {}}, "3": link, "5": link, "4": {"inputs": {"model": ["7", 0], "samples": ["5", 0]}}})
for sampler in ("3", "5"):
    with CurrentNodeContext("a prompt", sampler):
        latent = sampled(ours, steps=int(sampler))[0]
SVGReport.hidden = SimpleNamespace(dynprompt=prompt, prompt=None, extra_pnginfo=None)
with CurrentNodeContext("a prompt", "4"):
    samples, picture, text = SVGReport.execute(ours, {"samples": latent}).args
report = json.loads(text)
tell("the report", samplers=list(nodes_ray.reports_of(ours)), steps=len(report["steps"]), gpus=report["gpus"],
     same=samples["samples"] is latent, picture=[list(picture.shape), picture.std().item()])

twice = with_node(with_node(workers, "SVG"), "SVG2")
sampled(twice)
tell("two nodes", methods=[report["method"] for report in nodes_ray.reports_of(twice).values()])

short = with_node(workers, "SVG", min_tokens=8192)
dense = sampled(short)
tell("a short video", dense=all(map(torch.equal, dense, plain)), calls=next(iter(nodes_ray.reports_of(short).values()))["line"])

ours = with_node(workers, "SVG")
try:
    sampled(ours, steps="three")
except ray.exceptions.RayTaskError as error:
    failed = str(error)
nodes_ray.reports_of(ours)
tell("a sampler that fails", error=failed, off=all(map(torch.equal, sampled(workers), plain)))

import threading
ours = with_node(workers, "SVG")
refused = []
for one in ours["workers"][:1]:  # of a run that was never sent to the other
    try:
        one.common_ksampler.remote(threading.Lock())
    except TypeError as error:
        refused.append(str(error))
    latent = {"samples": torch.zeros(1, 16, 5, 14, 22)}
    one.common_ksampler.remote(0, 1, 5.0, "euler", "simple", conditioning(1), conditioning(2), latent)
sampled(ours)
tell("what cannot be sent", refused=refused, reports=[report["gpus"] for report in nodes_ray.reports_of(ours).values()],
     left=len(ours["sparse_videogen"]._runs), off=all(map(torch.equal, sampled(workers), plain)))

values = widgets("SVG")
wrong = nodes_ray.proxies(workers, Settings.of(SVGConfig, values, "7"), values | {"no_such_widget": 1})
dense = sampled(wrong)
reports = nodes_ray.reports_of(wrong)
tell("a node that fails there", dense=all(map(torch.equal, dense, plain)), reports=list(reports))

nodes_ray.PACK = "/nowhere/at/all"
for one in workers["workers"]:
    ray.get(one.model_function_runner.remote(lambda model: [sys.modules.pop(name) for name in list(sys.modules)
                                                            if name.split(".")[0] == "sparse_videogen"] and model))
ours = with_node(workers, "SVG")
out = sampled(ours)
tell("no pack there", dense=all(map(torch.equal, out, plain)), reports=list(nodes_ray.reports_of(ours)))
"""
SHARED = """
import sparse_videogen.nodes.host as host_module
from unittest.mock import patch as replaced
pages = []
host_module.tell_page = lambda kind, message: pages.append([kind, message["line"], message["node"]])
from raylight.comfy_extra_dist import nodes_model_advanced
known = raylight.nodes.NODE_CLASS_MAPPINGS | nodes_model_advanced.NODE_CLASS_MAPPINGS
tell("nodes", info={name: {"input": cls.INPUT_TYPES(), "output": cls.RETURN_TYPES} for name, cls in known.items()})
workers = {**actors(shared=True), "parallel": True}
import inspect
from raylight.comfy_extra_dist.nodes_custom_sampler import NODE_CLASS_MAPPINGS as custom
if len(inspect.signature(comfy.sample.fix_empty_latent_channels).parameters) > 3:  # else raylight's own guiders fail there
    from comfy.samplers import sampler_object
    latent, sigmas = {"samples": torch.zeros(1, 16, 5, 14, 22)}, torch.tensor([1.0, 0.7, 0.3, 0.0])
    def by_guider(ray_actors):
        (guider,) = custom["RayCFGGuider"]().get_guider(ray_actors, conditioning(1), conditioning(2), 5.0)
        run = custom["XFuserSamplerCustomAdvanced"]().ray_sample
        return run(True, 0, guider, sampler_object("euler"), sigmas, latent)[0]["samples"]
    guided = with_node(workers, "SVG")
    sparse = by_guider(guided)
    (report,) = nodes_ray.reports_of(guided).values()
    tell("a guider", line=report["line"], changed=far(sparse, by_guider(workers)))
    pages.clear()
(plain,) = sampled(workers)
for method in NODES:
    ours = with_node(workers, method)
    (out,) = sampled(ours)
    (report,) = nodes_ray.reports_of(ours).values()
    here = list(pages)
    one = sampled_alone(alone("wan21_t2v", method))
    pages.clear()
    said[:] = [line for line in said if "on 2 GPUs" in line]
    tell(method, far=far(out, one), changed=far(one, plain), line=report["line"], calls=report["calls"], pages=here)
    tell(f"{method}, off", same=torch.equal(sampled(workers)[0], plain))
"""


SHOWN = """
import asyncio
from pathlib import Path
import folder_paths
from sparse_videogen.nodes import host
from sparse_videogen.nodes.extension import SparseVideoGenExtension
from sparse_videogen.nodes.report import SVGReport

def shown():
    host.has_raylight.cache_clear()
    nodes = asyncio.run(SparseVideoGenExtension().get_node_list())
    report = SVGReport.define_schema().inputs[0].get_io_type()
    return [[node.define_schema().node_id for node in nodes], report]

packs = Path(checkpoints) / "custom_nodes"
folder_paths.folder_names_and_paths["custom_nodes"] = ([str(packs)], set())
without = shown()
for name in ("raylight.disabled", "ComfyUI-Raylight"):
    (packs / name / "src" / "raylight").mkdir(parents=True)
    (packs / name / "src" / "raylight" / "__init__.py").touch()
    tell(name, shown=shown(), without=without, ray="ray" in sys.modules)
"""


def test_they_are_shown_where_raylight_is_installed(host, tmp_path):
    facts = run_in_host(host.path, SHOWN, tmp_path)
    disabled, installed = facts["raylight.disabled"], facts["ComfyUI-Raylight"]
    alone = ["SVGAttention", "SVG2Attention", "SVGReport", "SVGVideoFidelity"]
    assert disabled["without"] == disabled["shown"] == [alone, "MODEL"]
    assert installed["shown"] == [[*alone, "SVGAttentionRay", "SVG2AttentionRay"], "MODEL,RAY_ACTORS"]
    assert not installed["ray"]


def test_actors_sample_sparse_and_keep_no_trace(host, tmp_path):
    if not (ENGINES / "ray").is_dir():
        pytest.skip(NO_ENGINES)
    facts = run_beside_actors(host.path, PLAIN, tmp_path, raylight=False)
    for method in ("SVG", "SVG2"):
        fact = facts[method]
        assert max(fact["far"]) < 1e-5 < 0.01 < fact["changed"] and fact["again"] and fact["off"]
        assert fact["node"] == "7" and len(fact["reports"]) == 1  # both runs were no node's
        assert "12 of 18 calls sparse on 2 GPUs" in fact["reports"][0]
        assert sum("calls sparse on 2 GPUs" in line for line in fact["said"]) == 2  # a line a run, not one a worker
    assert set(facts["left in the workers"]["things"]) == {0}
    assert facts["two nodes"]["methods"] == ["SVG2"]

    report = facts["the report"]
    assert report["samplers"] == ["3", "5"] and report["steps"] == 5 and report["gpus"] == 2 and report["same"]
    assert report["picture"][0] == [1, 1000, 1280, 3] and report["picture"][1] > 0.05

    short = facts["a short video"]
    assert short["dense"] and short["calls"] == "All 18 calls dense"
    assert sum("stays dense, min_tokens: 385 tokens are fewer than 8192" in line for line in short["said"]) == 1
    assert "TypeError" in facts["a sampler that fails"]["error"] and facts["a sampler that fails"]["off"]

    refused = facts["what cannot be sent"]
    assert len(refused["refused"]) == 1 and refused["reports"] == [2] and refused["left"] == 0 and refused["off"]

    failed = facts["a node that fails there"]
    assert failed["dense"] and failed["reports"] == []
    assert sum("the node could not be put on a worker's model" in line for line in failed["said"]) == 1
    nowhere = facts["no pack there"]
    assert nowhere["dense"] and nowhere["reports"] == []
    for worker in (0, 1):
        assert any(f"worker {worker} sent no figures of its run" in line and "/nowhere" in line for line in nowhere["said"])


def check_workflow(workflow: dict, info: dict) -> None:
    """A workflow for raylight by its own nodes: every widget has an allowed value, every link the wanted type."""
    prompt = to_prompt(workflow, info)
    wanted = {"RayInitializer", "RayUNETLoader", "SVG2AttentionRay", "XFuserKSamplerAdvanced"}
    assert wanted <= {node["class_type"] for node in prompt.values()}
    for node in prompt.values():
        inputs = info[node["class_type"]]["input"]
        for name, (kind, *options) in (inputs["required"] | inputs.get("optional", {})).items():
            value = node["inputs"].get(name)
            if value is None:
                assert name not in inputs["required"], (node["class_type"], name)
            elif isinstance(value, list):
                origin, slot = value
                assert info[prompt[origin]["class_type"]]["output"][slot] in kind.split(","), name
            elif isinstance(kind, list):
                assert value in kind or str(value).endswith(".safetensors"), (node["class_type"], name, value)
            elif kind in ("INT", "FLOAT"):
                assert options[0].get("min", -math.inf) <= value <= options[0].get("max", math.inf), (name, value)
    init = next(node["inputs"] for node in prompt.values() if node["class_type"] == "RayInitializer")
    degrees = {name: init[name] for name in ("GPU", "ulysses_degree", "ring_degree", "cfg_degree")}
    assert degrees == {"GPU": 2, "ulysses_degree": 2, "ring_degree": 1, "cfg_degree": 1}


def test_raylights_workers_make_one_video_together(host, tmp_path):
    """By raylight's own worker and sampler, of tokens of which two GPUs have unequal parts."""
    reason = missing(host.path)
    if reason is not None:
        pytest.skip(reason)
    facts = run_beside_actors(host.path, SHARED, tmp_path, raylight=True)
    for method in ("SVG", "SVG2"):
        fact = facts[method]
        assert fact["far"] < 0.3 * fact["changed"] and fact["changed"] > 0.01
        assert fact["calls"] == 18 and fact["line"].startswith("12 of 18 calls sparse on 2 GPUs, density")
        assert fact["pages"] == [["run", fact["line"], "7"]] and len(fact["said"]) == 1
        assert facts[f"{method}, off"]["same"]
    if "a guider" in facts:
        assert facts["a guider"]["line"].startswith("12 of 18 calls sparse on 2 GPUs") and facts["a guider"]["changed"] > 0.01
    for name in FOR_RAYLIGHT:
        check_workflow(json.loads((WORKFLOWS / f"{name}.json").read_text()), host.server.object_info() | facts["nodes"]["info"])
    assert min(facts[method]["far"] for method in ("SVG", "SVG2")) < 1e-5
