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
from pathlib import Path
from types import ModuleType, SimpleNamespace

ARCHITECTURE = "9.0"
SHARED_BYTES = 227 << 10
OPS = {"assign": "assign", "centroids": "centroids", "gather_attention": "gather_attention", "pack": "pack_lists"}
OPS |= {"exact_rows": "exact_rows", "select": "select"}
TINY = {"heads": 2, "frames": 4, "height": 8, "width": 8, "q_clusters": 8, "k_clusters": 16}


class Event:
    """torch.cuda.Event by the host's clock."""

    def __init__(self, enable_timing: bool):
        self.timing = enable_timing

    def record(self) -> None:
        self.at_ms = 1e3 * time.perf_counter()

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms


def install() -> SimpleNamespace:
    """Puts the references in the kernels' place and shrinks the shapes; returns what stands in for torch.cuda."""
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["TORCHDYNAMO_DISABLE"] = "1"  # FlexAttention without a compiler's minute
    kernels = importlib.import_module("sparse_videogen.kernels.backend")
    configs = importlib.import_module("sparse_videogen.kernels.tile_configs")
    _replace(kernels.choose_backend, lambda backend, device: "torch" if backend == "torch" else "triton")
    _replace(configs.architecture, lambda device: ARCHITECTURE)
    for package, op in OPS.items():
        name = f"sparse_videogen.kernels.{package}.triton_kernel"
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], f"launch_{op}", _launch(package, op, configs))
    shapes = importlib.import_module("shapes")
    for name in shapes.GPU_SHAPES:
        shapes.SHAPES[name] = replace(shapes.SHAPES[name], **TINY, text=min(7, shapes.SHAPES[name].text))
    return SimpleNamespace(
        Event=Event,
        synchronize=lambda: None,
        reset_peak_memory_stats=lambda: None,
        memory_allocated=lambda: 0,
        max_memory_allocated=lambda: 0,
        get_device_name=lambda: "rehearsal on a CPU",
        get_device_properties=lambda device: SimpleNamespace(
            multi_processor_count=132, L2_cache_size=50 << 20, total_memory=80 << 30
        ),
    )


def _replace(function, stand_in) -> None:
    """In each module that has it by whatever name."""
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is function:
                setattr(module, name, stand_in)


def _launch(package: str, op: str, configs):
    reference = getattr(importlib.import_module(f"sparse_videogen.kernels.{package}.reference"), op)

    def launch(x, *args):
        if op == "gather_attention":
            config = configs.tile_config(op, x.shape[-1], x.device, x.dtype)
            needed = config.num_stages * config.block_n * x.shape[-1] * 2 * x.element_size()
            if needed > SHARED_BYTES:
                raise RuntimeError(f"out of resource: shared memory, Required: {needed}, Hardware limit: {SHARED_BYTES}")
        return reference(x, *args)

    return launch


# Options that each program takes, and how many words follow each; anything else is a mistake in the script.
PROGRAMS = {
    "ncu": {"--clock-control": 1, "--launch-count": 1, "--kernel-name": 1, "--section": 1, "--print-details": 1},
    "compute-sanitizer": {"--tool": 1, "--error-exitcode": 1, "--print-limit": 1},
}
RUN = """#!{python}
import os, sys
known, words = {known}, sys.argv[1:]
while words and words[0].startswith("-"):
    if words[0] not in known:
        sys.exit(f"{name}: unknown option {{words[0]}}")
    print("{name}", *words[: 1 + known[words[0]]])
    del words[: 1 + known[words[0]]]
os.execvp(words[0], words)
"""
NVIDIA_SMI = """#!{python}
import sys
query = sys.argv[1].removeprefix("--query-gpu=").split(",")
assert sys.argv[1] != query[0] and sys.argv[2].startswith("--format=csv,noheader") and len(sys.argv) == 3, sys.argv
print(", ".join("1980" for _ in query))
"""


def write_programs(folder: Path) -> None:
    """Stand-ins for ncu, compute-sanitizer and nvidia-smi."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {name: RUN.format(python=sys.executable, known=known, name=name) for name, known in PROGRAMS.items()}
    texts["nvidia-smi"] = NVIDIA_SMI.format(python=sys.executable)
    for name, text in texts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


if __name__ == "__main__":
    write_programs(Path(sys.argv[1]))
