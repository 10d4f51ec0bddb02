"""How long is a denoising step in ComfyUI, dense and sparse? A model of real size and random weights, patched as the nodes do.

    COMFYUI_PATH=~/ComfyUI python benchmarks/steps.py --shapes wan14b_720p

Runs in the process of that ComfyUI, in the Python environment that it is started with; no model has to be there. Dense is the
host's own attention. The picture is noise, but by `density` the weights have no part in how much is computed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from importlib import import_module
from unittest.mock import patch

import torch
from calls import require_kernels, svg2_config
from device import attempt, gpu, on_gpu
from host_env import find_hosts
from host_launcher import EmptyTorchaudio, declare_missing_ops
from measure import out_of_time, parse_arguments, run
from profile_call import by_part, kernels_of, profiler
from shapes import Shape
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.nodes.record import Record
from sparse_videogen.svg_core import SVGConfig, sparse_attention
from torch import Tensor

# s_step: of a step with all of its conditionings, sparse if the provider is; s_dense_step: of one before it, in which k-means
# warms up; end_to_end: how many times as fast a video is of which DENSE_SHARE of the steps is dense; s_attention: of the
# sparse self-attention in a step, planning included. A part is one of the step that was profiled.
COLUMNS = (
    *(
        "shape",
        "provider",
        "density",
        "precision",
        "s_step",
        "s_dense_step",
        "speedup",
        "end_to_end",
        "s_attention",
        "batch",
        "peak_bytes",
    ),
    *("part", "launches", "ms", "share"),
)
DENSE_SHARE, GUIDANCE = 0.2, 5.0
STEPS = 4  # one dense, in which k-means warms up; the first sparse one, which completes it; one to time; one to profile
# Provider, method and density; what matters most comes first.
CASES = (("dense", 1.0), ("svg2", 0.25), ("svg2", 0.15), ("svg", 0.30), ("svg2", 0.30))


def start_host(device: torch.device | str) -> None:
    """Imports the ComfyUI that is found first, with torch's own attention for what is dense."""
    if not find_hosts():
        raise SystemExit("no ComfyUI found: set COMFYUI_PATH to the folder of one")
    sys.path.insert(0, str(find_hosts()[0]))
    sys.argv[1:] = ["--use-pytorch-cross-attention", *(["--cpu"] if torch.device(device).type == "cpu" else [])]
    declare_missing_ops()
    sys.meta_path.append(EmptyTorchaudio)
    options = import_module("comfy.options")
    options.enable_args_parsing()
    for name in ("utils.extra_config", "comfy.sample", "comfy.sd"):  # the first before comfy/, with a utils.py, comes in front
        import_module(name)


def tensors_of(shape: Shape) -> dict[str, Tensor]:
    """The weights of the host's model of this size, by name, on the meta device."""
    import comfy.ops

    module, class_name, settings = MODELS[shape.model](shape)
    options = {"dtype": torch.bfloat16, "device": "meta", "operations": comfy.ops.disable_weight_init}
    return getattr(import_module(module), class_name)(**settings, **options).state_dict()


def model_of(shape: Shape):
    """The host's model with random weights, loaded as it would be from a checkpoint."""
    import comfy.model_management
    import comfy.sd

    device = comfy.model_management.get_torch_device()
    return comfy.sd.load_diffusion_model_state_dict(
        {name: _filled(name, like, device) for name, like in tensors_of(shape).items()}
    )


def _wan(shape: Shape) -> tuple[str, str, dict]:
    """Module, class and sizes of Wan 2.1 T2V."""
    width = shape.heads * shape.head_dim
    sizes = {"in_dim": 16, "dim": width, "ffn_dim": {5120: 13824, 1536: 8960}.get(width, 2 * width)}
    sizes |= {"num_heads": shape.heads, "num_layers": shape.layers}
    return "comfy.ldm.wan.model", "WanModel", {"model_type": "t2v", **sizes}


def _hunyuan(shape: Shape) -> tuple[str, str, dict]:
    """Module, class and sizes of HunyuanVideo: a third of the layers has a stream each for video and text, the others one."""
    from comfy.ldm.hunyuan_video.model import HunyuanVideoParams

    double = -(-shape.layers // 3)
    sizes = {"in_channels": 16, "out_channels": 16, "vec_in_dim": 768, "context_in_dim": 4096, "mlp_ratio": 4.0, "theta": 256}
    sizes |= {"hidden_size": shape.heads * shape.head_dim, "num_heads": shape.heads, "axes_dim": [16, 56, 56]}
    sizes |= {"depth": double, "depth_single_blocks": shape.layers - double, "patch_size": [1, 2, 2]}
    sizes |= {"qkv_bias": True, "guidance_embed": True, "vision_in_dim": None}
    known = {field.name: sizes.get(field.name, False) for field in fields(HunyuanVideoParams)}
    return "comfy.ldm.hunyuan_video.model", "HunyuanVideo", known


MODELS = {"wan": _wan, "hunyuan": _hunyuan}


def _filled(name: str, like: Tensor, device: torch.device) -> Tensor:
    """Random numbers for a weight, which keep the size of what goes through it; on the CPU."""
    if like.ndim < 2:
        return torch.full(like.shape, float("norm" in name and not name.endswith("bias")), dtype=like.dtype)
    return torch.empty(like.shape, dtype=like.dtype, device=device).normal_(std=like[0].numel() ** -0.5).cpu()


def patched(model, provider: str, density: float, shape: Shape, precision: str):
    """A clone of the model as a node makes it, with the same density in every sparse step; the model itself for "dense"."""
    from sparse_videogen.nodes.patch import patch_model
    from sparse_videogen.nodes.settings import Settings

    if provider == "dense":
        return model
    svg2 = svg2_config(shape, density, density_start=1.0, kmeans_init_iters=10)
    config = svg2 if provider == "svg2" else SVGConfig(sparsity=1 - density)
    return patch_model(model, Settings(config, start_percent=DENSE_SHARE, min_tokens=0, precision=precision))


def sample(model, shape: Shape, callback: Callable | None = None) -> None:
    """STEPS steps from noise; `callback` as the host calls it, after each."""
    import comfy.sample

    rng = torch.Generator().manual_seed(0)
    latent = torch.zeros(1, 16, shape.frames, 2 * shape.height, 2 * shape.width)
    conditionings = [
        [[torch.randn(1, shape.text or 512, 4096, generator=rng), {"pooled_output": torch.randn(1, 768, generator=rng)}]]
        for _ in range(2)
    ]
    guidance = GUIDANCE if shape.model == "wan" else 1.0  # HunyuanVideo was distilled
    noise = torch.randn(latent.shape, generator=rng)
    with torch.inference_mode():
        comfy.sample.sample(model, noise, STEPS, guidance, "euler", "simple", *conditionings, latent, callback=callback)


class Watch:
    """The callback of `sample`, which times its steps.

    Attributes:
        seconds: of each step but the last, which is profiled instead.
        sparse: calls and seconds of sparse self-attention in the step that was timed last; empty if it was dense.
    """

    def __init__(self, device: torch.device | str):
        self.device, self.seconds, self.sparse = torch.device(device), [], {}
        self.profile, self._record = profiler(device), Record()
        self._begin = self._now()

    def attention(self, *args, **options):
        """`sparse_attention`, timed."""
        with self._record.timed("sparse", self.device):
            return sparse_attention(*args, **options)

    def __call__(self, step: int, *more) -> None:
        if step == STEPS - 1:
            self._now()
            self.profile.stop()
            return
        self.seconds.append(self._now() - self._begin)
        self.sparse, self._record = self._record.report()["attention"].get("sparse", {}), Record()
        if step == STEPS - 2:
            self.profile.start()
        self._begin = self._now()

    def _now(self) -> float:
        if on_gpu(self.device):
            gpu.synchronize()
        return time.perf_counter()


def measured(model, provider: str, density: float, shape: Shape, arguments, dense_s: float) -> list[dict]:
    """A row of the steps' times, then one of each part of the profiled step; raises where a call was not as it should be."""
    from sparse_videogen.nodes import attend
    from sparse_videogen.nodes.patch import reports_of

    device, batches = arguments.device, []
    made = patched(model, provider, density, shape, arguments.precision)
    sample(made, replace(shape, height=-(-shape.height // 4), width=-(-shape.width // 4)))  # compiles
    hook = made.model.diffusion_model.register_forward_pre_hook(lambda module, given: batches.append(len(given[0])))
    if on_gpu(device):
        gpu.reset_peak_memory_stats()
    watch = Watch(device)
    try:
        with patch.object(attend, "sparse_attention", watch.attention):
            sample(made, shape, watch)
    finally:
        hook.remove()
    require_kernels()
    row = {"density": density, "batch": max(batches), "s_step": watch.seconds[-1]}
    if provider != "dense":
        report = reports_of(made)[None]
        if report["dense_reasons"].keys() != {"start_percent"} or report["broken_calls"]:
            raise RuntimeError("; ".join([report["line"], *report["warnings"], *reversed(report["notes"])]))
        row |= {"density": report["density"], "precision": report["precision"], "s_attention": watch.sparse["seconds"]}
        row |= {"s_dense_step": watch.seconds[0], "speedup": dense_s / row["s_step"]}
        row["end_to_end"] = dense_s / (DENSE_SHARE * row["s_dense_step"] + (1 - DENSE_SHARE) * row["s_step"])
    row["peak_bytes"] = gpu.max_memory_allocated() if on_gpu(device) else None
    parts = by_part(kernels_of(watch.profile, device))
    total_ms = sum(ms for _, _, ms in parts)
    shares = ({"part": part, "launches": launches, "ms": ms, "share": ms / total_ms} for part, launches, ms in parts)
    return [row, *({"op": "step parts", "density": row["density"], **share} for share in shares)]


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """Rows of all CASES at a shape, dense first; what is missing says why."""
    if shape.model not in MODELS:
        yield {"provider": "all", "missing": f"the models made here are {' and '.join(MODELS)}, not {shape.model}"}
        return
    import comfy.model_management

    comfy.model_management.unload_all_models()
    print(f"making a {shape.model} of {sum(x.numel() for x in tensors_of(shape).values()) / 1e9:.1f} billion random numbers")
    model, dense_s = model_of(shape), float("nan")
    for provider, density in CASES:
        case = {"provider": provider, "density": density}
        if out_of_time(arguments):
            yield case | {"missing": f"--seconds {arguments.seconds:g} were over"}
            continue
        found = attempt(measured, model, provider, density, shape, arguments, dense_s)
        if "missing" in found:
            yield case | found
            continue
        if provider == "dense":
            dense_s = found[0]["s_step"]
        yield from (case | row for row in found)


if __name__ == "__main__":
    arguments = parse_arguments(__doc__, precision={"choices": PRECISIONS, "default": PRECISIONS[0]})
    start_host(arguments.device)
    run("steps", COLUMNS, rows_of, arguments)
