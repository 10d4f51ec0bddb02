"""A new resolution compiles nothing new: what changes with the video is never part of a kernel's identity."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
OPS = sorted(path.parent.name for path in (ROOT / "kernels").glob("*/triton_kernel.py"))
# Of the tile, the head's width and the variant: never of N, strides, counts or list lengths.
ALLOWED = {
    *("BLOCK_M", "BLOCK_N", "BLOCK_C", "BLOCK_S", "BLOCK_ROWS", "ROWS", "SEGMENTS", "COLUMNS"),
    *("HEAD_DIM", "SPREAD_D", "TAIL_BLOCK_N", "TAIL_STAGES", "TAIL", "KEYS", "RESUME", "WITH_LSE"),
    *("HAS_WINDOWS", "HAS_PREVIOUS", "HAS_VARIANCE", "HAS_MASK", "HAS_METRIC", "PRECISION"),
    *("AT_LEAST_ONE", "RESOLUTION", "ABOVE_ALL", "QUANTISED", "SHORT_SUMS", "IS_Q", "LEVELS", "LEAST"),
}

COUNT = """
import json, sys
sys.path.insert(0, sys.argv[1])
import torch, triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

class NoGpu:  # what the launch path asks of a driver before it launches
    def get_current_target(self): return GPUTarget("cuda", 90, 32)
    def get_current_device(self): return 0
    def get_current_stream(self, device=None): return 0
    def get_active_torch_device(self): return torch.device("cpu")

driver.set_active(NoGpu())
compiled = []
run = JITFunction.run
def compile_only(self, *args, grid, warmup, **kwargs):
    kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
    compiled.append(f"{self.__name__}-{kernel.hash}")
JITFunction.run = compile_only
empty, empty_like = torch.empty, torch.empty_like
torch.empty = lambda *a, **k: empty(*a, **k).zero_()  # results are never written: labels must be in range all the same

from load_pack import load_pack
load_pack()
from sparse_videogen.kernels import PRECISIONS, backend, failures
backend.triton_obstacle = lambda device: None
from sparse_videogen.svg_core import SVG2Config, SVGConfig, SparseState, VideoLayout, sparse_attention

seen = []
for layout in (VideoLayout(4, 6, 7), VideoLayout(8, 16, 16), VideoLayout(5, 12, 13, text_after=16), VideoLayout(1, 9, 9, 1)):
    for memory in ("heads first", "tokens first"):
        q = torch.randn(1, 3, layout.tokens, 64).half()
        if memory == "tokens first":
            q = q.transpose(1, 2).contiguous().transpose(1, 2)
        svg2 = {"q_clusters": layout.frames + 4, "k_clusters": 2 * layout.frames + 8, "kmeans_init_iters": 2}
        for config in (SVGConfig(sparsity=0.5), SVG2Config(**svg2), SVG2Config(**svg2, choose_by="top_p", top_p=0.5)):
            for workspace_bytes in (1, 1 << 28):  # heads one by one, and together
                call = {"config": config, "layout": layout, "backend": "triton", "workspace_bytes": workspace_bytes}
                for precision in PRECISIONS:
                    sparse_attention(q, q, q, **call, precision=precision)
    seen.append(len(set(compiled)))
names = sorted({kernel.split("-")[0] for kernel in compiled})
print(json.dumps([seen, failures(), len(compiled), names]))
"""


@pytest.mark.parametrize("op", OPS)
def test_constexprs_do_not_depend_on_the_video(op):
    module = importlib.import_module(f"sparse_videogen.kernels.{op}.triton_kernel")
    kernels = [value for name, value in vars(module).items() if name.endswith("_kernel")]
    assert kernels
    for kernel in kernels:
        source = Path(module.__file__).read_text()
        assert set(kernel.arg_names) & {"BLOCK_M", "BLOCK_N", "BLOCK_C", "BLOCK_ROWS", "SEGMENTS"}
        assert {name for name in kernel.arg_names if name.isupper() or f"{name}: tl.constexpr" in source} <= ALLOWED


def test_a_new_resolution_compiles_nothing_new(tmp_path):
    env = {name: value for name, value in os.environ.items() if name not in ("TRITON_INTERPRET", "SPARSE_VIDEOGEN_DEBUG")}
    env["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-c", COUNT, str(ROOT / "tests" / "harness")]
    result = subprocess.run(command, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    seen, failures, launches, names = json.loads(result.stdout.splitlines()[-1])
    assert failures == {} and launches > 8 * seen[0]
    sources = [path.read_text() for path in (ROOT / "kernels").glob("*/triton_kernel.py")]
    assert names == sorted(re.findall(r"^def (_\w+_kernel)\(", "\n".join(sources), re.MULTILINE))
    assert len(set(seen)) == 1, f"kernels compiled after each resolution: {seen}"
