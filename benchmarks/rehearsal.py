"""Lets the scripts for a GPU run on a CPU, every line of them, at tiny shapes: REHEARSE=1 in the environment asks for it.

Triton's launches run their references, the architecture is an H100's, and times and bytes mean nothing. As a script it
writes stand-ins for the programs that a GPU's machine has, which look at what they are given and go on:

    python benchmarks/rehearsal.py FOLDER; PATH=FOLDER:$PATH
"""

from __future__ import annotations

import importlib
import os
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

ARCHITECTURE = "9.0"
SHARED_BYTES = 227 << 10
PACKAGES = ("assign", "centroids", "gather_attention", "pack", "exact_rows", "select", "score", "budget", "bins")
TINY = {"heads": 2, "layers": 2, "frames": 4, "height": 8, "width": 8, "q_clusters": 8, "k_clusters": 16}


class Event:
    """torch.cuda.Event by the host's clock."""

    def __init__(self, enable_timing: bool):
        self.timing = enable_timing

    def record(self) -> None:
        self.at_ms = 1e3 * time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms


class Launchers:
    """Stands in for a package's triton_kernel.py: its launches are the references."""

    def __init__(self, package: str):
        self.reference = importlib.import_module(f"sparse_videogen.kernels.{package}.reference")

    def __getattr__(self, launch: str):
        return partial(_run, launch.removeprefix("launch_"), self.reference)


def _run(op: str, reference, x, *args):
    if op == "gather_attention":
        config = importlib.import_module("sparse_videogen.kernels.tile_configs").tile_config(op, x.shape[-1], x.device, x.dtype)
        needed = config.num_stages * config.block_n * x.shape[-1] * 2 * x.element_size()
        if needed > SHARED_BYTES:
            raise RuntimeError(f"out of resource: shared memory, Required: {needed}, Hardware limit: {SHARED_BYTES}")
    return getattr(reference, op)(x, *args)


def install() -> SimpleNamespace:
    """Puts the references in the kernels' place and shrinks the shapes; returns what stands in for torch.cuda."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # FlexAttention without a compiler's minute
    kernels, configs = (importlib.import_module(f"sparse_videogen.kernels.{name}") for name in ("backend", "tile_configs"))
    _replace(
        kernels.backend_status, lambda *place, backend="auto": ("torch" if "torch" in (*place, backend) else "triton", None)
    )
    _replace(configs.architecture, lambda device: ARCHITECTURE)
    for package in PACKAGES:
        sys.modules[f"sparse_videogen.kernels.{package}.triton_kernel"] = Launchers(package)
    shapes = importlib.import_module("shapes")
    for name in shapes.GPU_SHAPES:
        shapes.SHAPES[name] = replace(shapes.SHAPES[name], **TINY, text=min(7, shapes.SHAPES[name].text))
    facts = SimpleNamespace(multi_processor_count=132, L2_cache_size=50 << 20, total_memory=80 << 30)
    return SimpleNamespace(
        Event=Event,
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 0,
        max_memory_allocated=lambda: 0,
        get_device_name=lambda: "rehearsal on a CPU",
        get_device_properties=lambda device: facts,
    )


def _replace(function, stand_in) -> None:
    """In each module that has it by whatever name."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is function:
                setattr(module, name, stand_in)


# Options that each program takes, one word after each; anything else is a mistake in the script.
PROGRAMS = {
    "ncu": "--clock-control --launch-count --kernel-name --section --print-details",
    "compute-sanitizer": "--tool --error-exitcode --print-limit",
}
RUN = """#!{python}
import os, sys
words = sys.argv[1:]
while words[0].startswith("-"):
    if words[0] not in "{known}".split():
        sys.exit(f"{name}: unknown option {{words[0]}}")
    print("{name}", words.pop(0), words.pop(0))
os.execvp(words[0], words)
"""
NVIDIA_SMI = """#!{python}
import sys
query = sys.argv[1].removeprefix("--query-gpu=").split(",")
assert sys.argv[1] != query[0] and sys.argv[2].startswith("--format=csv,noheader") and len(sys.argv) == 3, sys.argv
print(", ".join("1980" for _ in query))
"""

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name, text in (("nvidia-smi", NVIDIA_SMI), *((name, RUN) for name in PROGRAMS)):
        (folder / name).write_text(text.format(python=sys.executable, name=name, known=PROGRAMS.get(name)))
        (folder / name).chmod(0o755)
