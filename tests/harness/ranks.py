"""Scripts in several processes of a real ComfyUI that share a video's tokens out as raylight does: on the CPU, by gloo.

A script finds what one in `in_process.py` finds, and `rank`, `ranks`, `load_shared(family)` -> a model whose forward is
raylight's, and `render(model, family, ...)` -> latent of the tiny prompt; `begin(model, method, **widgets)`, `figures(model)`
and `end(model)` are what the nodes for Ray do in a worker. What rank 0 tells comes back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from comfy_host import find_hosts, host_version, prepare_host
from in_process import PRELUDE
from processes import ENGINES, NO_ENGINES, run_ranks
from tiny_checkpoints import parts, write_checkpoint

HARNESS = Path(__file__).parent
FIRST_VERSION = "0.4.0"  # whose models have all that raylight's forwards use
# raylight on a CPU: xFuser leaves out the parts of it where there is no GPU.
IMPORT = """
import os
sys.path.append(os.environ["RAYLIGHT"])
has_cuda, torch.cuda.is_available = torch.cuda.is_available, lambda: True
import raylight
torch.cuda.is_available = has_cuda
"""
# The nodes' settings, and a model on one GPU with a node.
NODES = """
from sparse_videogen.nodes.svg import SVGAttention
from sparse_videogen.nodes.svg2 import SVG2Attention
NODES = {"SVG": SVGAttention, "SVG2": SVG2Attention}
SMALL = {"SVG": {}, "SVG2": {"density": 0.4, "q_clusters": 8, "k_clusters": 24, "kmeans_init_iters": 6}}
def widgets(method, **values):
    # What a node hands to its workers.
    return NODES[method].resolved({"min_tokens": 0, "start_percent": 0.0} | SMALL[method] | values)

def alone(family, method, **values):
    return patch_model(load(family), Settings.of(NODES[method].CONFIG, widgets(method, **values), "7"))

def far(a, b):
    # The largest difference, as a part of the largest value.
    return ((a - b).abs().max() / b.abs().max()).item()
"""
RANK = """
import torch.distributed as dist
import processes
from tiny_prompts import tiny_prompt
processes.meet()
rank, ranks = dist.get_rank(), dist.get_world_size()
from raylight.distributed_modules.usp import USPInjectRegistry
from raylight.distributed_worker.parallel_group_manager import initialize_xfuser_parallel
import comfy.patcher_extension
import helper_nodes, node_helpers
from sparse_videogen.nodes import ray_worker

degrees = json.loads(os.environ["DEGREES"])
parallel = {"is_xdit": True, "attention": "TORCH_MATH", "sync_ulysses": False, "ring_degree": 1, "cfg_degree": 1}
initialize_xfuser_parallel(rank, ranks, parallel | {"ulysses_degree": ranks} | degrees)

def load_shared(family="wan21_t2v"):
    model = load(family)
    model.add_callback(comfy.patcher_extension.CallbacksMP.ON_LOAD, USPInjectRegistry.inject)
    return model

def conditionings(family, **options):
    # (positive, negative, latent) of the tiny prompt, without a server.
    prompt = tiny_prompt(family, **options)
    def output(link):
        made = prompt[link[0]]
        inputs = {name: output(value) if isinstance(value, list) else value for name, value in made["inputs"].items()}
        if made["class_type"] == "ReferenceLatent":
            references = {"reference_latents": [inputs["latent"]["samples"]]}
            return node_helpers.conditioning_set_values(inputs["conditioning"], references, append=True)
        return helper_nodes.NODE_CLASS_MAPPINGS[made["class_type"]].run(**inputs)[0]
    return tuple(output(prompt["sampler"]["inputs"][name]) for name in ("positive", "negative", "latent_image"))

def render(model, family="wan21_t2v", steps=3, cfg=5.0, **options):
    positive, negative, latent = conditionings(family, **options)
    latent = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return comfy.sample.sample(model, noise, steps, cfg, "euler", "simple", positive, negative, latent)

def begin(model, method, **values):
    return ray_worker.begin(model, method, widgets(method, **values), "7")

figures, end = ray_worker.figures, ray_worker.end

def on_every_rank(x):
    gathered = [torch.empty_like(x) for _ in range(ranks)]
    dist.all_gather(gathered, x.contiguous())
    return all(torch.equal(x, other) for other in gathered)
"""


def find_raylight() -> Path | None:
    """A checkout of raylight: `$RAYLIGHT_PATH`, or one in the usual places; None where there is none.

    Raises:
        ValueError: `$RAYLIGHT_PATH` names no raylight.
    """
    named = os.environ.get("RAYLIGHT_PATH")
    if named and not (Path(named) / "src" / "raylight").is_dir():
        raise ValueError(f"RAYLIGHT_PATH={named!r} is no raylight: it has no src/raylight")
    candidates = [named] if named else [*(host / "custom_nodes" / "raylight" for host in find_hosts()), "~/raylight"]
    found = (Path(path).expanduser() for path in candidates)
    return next((path for path in found if (path / "src" / "raylight").is_dir()), None)


def missing(host_path: Path) -> str | None:
    """Why raylight cannot run in this ComfyUI, or None."""
    if not (ENGINES / "xfuser").is_dir():
        return NO_ENGINES
    if find_raylight() is None:
        return "no raylight found: set RAYLIGHT_PATH to a checkout of it"
    if parts(host_version(host_path)) < parts(FIRST_VERSION):
        return f"raylight needs a ComfyUI that is younger than {host_version(host_path)}"
    return None


def run_on_ranks(
    host_path: Path, script: str, folder: Path, *, families=("wan21_t2v",), ranks=2, degrees=None, timeout_s=300
) -> dict:
    """Runs the script on each rank and returns what rank 0 told.

    Args:
        degrees: xFuser's, where they are not one Ulysses group of all ranks.
        timeout_s: after which the ranks are taken to wait for each other for ever.
    """
    for family in families:
        write_checkpoint(family, folder)
    python, facts = prepare_host(host_path), [folder / f"facts{rank}.json" for rank in range(ranks)]
    ending = 'open(facts_file, "w").write(json.dumps(facts))\nprocesses.end()'
    program = "\n".join([PRELUDE, IMPORT, NODES, RANK, script, ending])
    more = {"RAYLIGHT": str(find_raylight() / "src"), "DEGREES": json.dumps(degrees or {})}
    run_ranks(ranks, lambda rank: [python, "-c", program, HARNESS, folder, facts[rank]], folder, timeout_s, host_path, **more)
    return json.loads(facts[0].read_text())
