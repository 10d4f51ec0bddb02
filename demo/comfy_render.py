"""Renders in a headless ComfyUI, over HTTP: the tiny model through UNETLoader and the pack's own nodes."""

from __future__ import annotations

import shutil
import tempfile
from functools import partial
from pathlib import Path

from moving_shapes import CELL, TEXT_TOKENS, TEXT_WIDTH, from_host_latent, seed_of
from render import CHECKPOINT, GUIDANCE, LAYERS, Method, Render, Scene, each_method  # adds tests/harness

# isort: split
from comfy_host import ComfyServer, RunResult, host_version, latent
from real_host import Host
from tiny_prompts import node
from tiny_wan import SHIFT


def prompt_of(scene: Scene, method: Method) -> dict:
    """The API prompt: loader, method, shift, sampler, latent."""
    cells = scene.pixels // CELL
    prompt = {
        "model": node("UNETLoader", unet_name=CHECKPOINT.name, weight_dtype="default"),
        "shift": node("ModelSamplingSD3", model=["model", 0], shift=SHIFT),
        "timed": node("SVGDemoTimeAttention", model=["shift", 0]),
        "text": node("SVGDemoConditioning", tokens=TEXT_TOKENS, width=TEXT_WIDTH, seed=seed_of(scene.prompt)),
        "no_text": node("SVGDemoConditioning", tokens=TEXT_TOKENS, width=TEXT_WIDTH, seed=seed_of(None)),
        "noise": node("SVGDemoLatent", channels=16, frames=scene.frames, height=cells, width=cells, batch=1),
        "save": node("SaveLatent", samples=["sampler", 0], filename_prefix="latents/demo"),
    }
    if method.node:
        prompt["sparse"] = node(method.node, model=["shift", 0], **method.schedule, **method.inputs)
        prompt["timed"]["inputs"]["model"] = ["sparse", 0]
    sampling = {"steps": scene.steps, "cfg": GUIDANCE, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    links = {"model": ["timed", 0], "positive": ["text", 0], "negative": ["no_text", 0], "latent_image": ["noise", 0]}
    prompt["sampler"] = node("KSampler", seed=scene.seed, **sampling, **links)
    return prompt


def render(server: ComfyServer, scene: Scene, method: Method) -> Render:
    """One video; the server's folder holds the checkpoint."""
    result = server.queue(prompt_of(scene, method))
    run = _event(result, "sparse_videogen.run") or {"density": 1.0, "computed": 1.0, "error": 0.0, "sparse_calls": 0}
    attention_s = _event(result, "svg_demo.attention")["seconds"]
    video = from_host_latent(latent(result))[0]
    figures = (run[name] for name in ("density", "computed", "error"))
    steps = (scene.steps, run["sparse_calls"] // LAYERS)
    return Render(method.name, video, *figures, *steps, attention_s, result.seconds)


def render_all(path: Path, scene: Scene) -> list[Render]:
    """A render a method, dense first, in the ComfyUI at `path`."""
    print(f"ComfyUI {host_version(path)} at {path}: its requirements, its start, and")
    with tempfile.TemporaryDirectory(prefix="sparse_videogen_") as folder:
        install_checkpoint(Path(folder))
        with Host(path, Path(folder), []).server as server:
            return each_method(partial(render, server), scene)


def install_checkpoint(base_dir: Path) -> None:
    """Puts the tiny model where a server of this base directory finds it."""
    folder = base_dir / "models" / "diffusion_models"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(CHECKPOINT, folder)


def _event(result: RunResult, kind: str) -> dict | None:
    return next((data for name, data in result.events if name == kind), None)
