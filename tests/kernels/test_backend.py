"""Which implementation runs, and what happens when a kernel fails."""

from __future__ import annotations

import importlib
import logging
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from sparse_videogen.kernels import backend as backends
from sparse_videogen.kernels import choose_backend, compat, failures
from sparse_videogen.kernels.assign import assign
from sparse_videogen.kernels.assign.reference import assign as reference
from sparse_videogen.kernels.tile_configs import TileConfig, config_for, table

CPU = torch.device("cpu")
HARNESS = str(Path(__file__).resolve().parents[1] / "harness")


@pytest.fixture(autouse=True)
def kernels_do_not_fall_back():
    """Here they shall: overrides the fixture that forbids it."""
    yield
    backends._failures.clear()


def test_auto_takes_torch_without_a_gpu():
    assert choose_backend("auto", CPU) == choose_backend("torch", CPU) == "torch"


def test_triton_without_triton_names_the_remedy(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="pip install triton"):
        choose_backend("triton", CPU)


@pytest.mark.parametrize("capability, runs", [((7, 5), False), ((8, 0), True), ((12, 0), True)], ids=str)
def test_a_gpu_too_old_is_refused_by_name(capability, runs, monkeypatch):
    pytest.importorskip("triton")
    device = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(backends, "architecture", lambda device: "{}.{}".format(*capability))
    assert choose_backend("auto", device) == ("triton" if runs else "torch")
    if not runs:
        with pytest.raises(RuntimeError, match="Tesla T4 has compute capability 7.5, the kernels need 8.0"):
            choose_backend("triton", device)


@pytest.mark.parametrize("alias, known", [("8.7", "8.6"), ("10.3", "10.0"), ("12.1", "12.0")])
def test_a_gpu_with_the_units_of_another_has_its_configs(alias, known):
    for op, by_arch in table().items():
        for head_dim in (64, 128):
            assert config_for(op, head_dim, alias) == config_for(op, head_dim, known)
            assert known not in by_arch or config_for(op, head_dim, alias) == TileConfig(**by_arch[known][str(head_dim)])


@pytest.mark.parametrize("name", ["128x64w8s5", "64x16w8s1t16d16a", "128x32w8s5t32d128"])
def test_a_config_is_what_its_name_says(name):
    assert str(TileConfig.parse(name)) == name
    with pytest.raises(ValueError, match="tile config '128x64': must look like"):
        TileConfig.parse("128x64")


def test_a_failing_kernel_is_said_once_and_torch_takes_over(monkeypatch, caplog):
    pytest.importorskip("triton")
    kernel = importlib.import_module("sparse_videogen.kernels.assign.triton_kernel")
    calls = []

    def broken(*args):
        calls.append(args)
        raise RuntimeError("no ptxas")

    monkeypatch.setattr(kernel, "launch_assign", broken)
    rng = torch.Generator().manual_seed(0)
    x, centroids = torch.randn(1, 1, 50, 64, generator=rng), torch.randn(1, 1, 5, 64, generator=rng)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(assign(x, centroids, backend="triton"), reference(x, centroids))
    assert len(calls) == 1 and failures() == {"assign (cpu, float32)": "RuntimeError: no ptxas"}
    (record,) = caplog.records
    assert "Triton kernel of assign (cpu, float32) failed" in record.message and record.exc_info


def test_a_failure_turns_off_nothing_for_another_dtype_or_card(monkeypatch):
    pytest.importorskip("triton")
    kernel = importlib.import_module("sparse_videogen.kernels.assign.triton_kernel")
    broken, works = ("8.0", torch.float32), [("8.0", torch.float16), ("9.0", torch.float32)]
    calls = []

    def launch(x, centroids):
        calls.append((card, x.dtype))
        if calls[-1] == broken:
            raise RuntimeError("no ptxas")
        return reference(x, centroids)

    monkeypatch.setattr(kernel, "launch_assign", launch)
    for card, dtype in [broken, *works, broken, *works]:
        monkeypatch.setattr(backends, "architecture", lambda device, card=card: card)
        assign(torch.zeros(1, 1, 4, 64, dtype=dtype), torch.zeros(1, 1, 2, 64), backend="triton")
    assert calls == [broken, *works, *works]
    assert failures() == {"assign (8.0, float32)": "RuntimeError: no ptxas"}


def test_a_missing_kernel_is_said_once_and_the_others_still_run(device, monkeypatch, caplog):
    pytest.importorskip("triton")
    kernel = importlib.import_module("sparse_videogen.kernels.assign.triton_kernel")
    launch = kernel.launch_assign

    def no_float32(x, centroids):
        if x.dtype == torch.float32:
            raise backends.NoTileConfig("assign has no Triton kernel for float32")
        return launch(x, centroids)

    monkeypatch.setattr(backends, "_without_kernel", set())
    monkeypatch.setattr(kernel, "launch_assign", no_float32)
    rng = torch.Generator().manual_seed(0)
    x, centroids = (torch.randn(1, 1, n, 64, generator=rng).to(device) for n in (50, 5))
    for _ in range(2):
        assert torch.equal(assign(x, centroids, backend="triton"), reference(x, centroids))
    assert [record.message for record in caplog.records] == [
        "[sparse_videogen] assign has no Triton kernel for float32; torch does its work there"
    ]
    assert assign(x.half(), centroids.half(), backend="triton").shape == (1, 1, 50) and failures() == {}


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("full"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory_is_the_callers(error, monkeypatch):
    pytest.importorskip("triton")
    kernel = importlib.import_module("sparse_videogen.kernels.assign.triton_kernel")

    def full(*args):
        raise error

    monkeypatch.setattr(kernel, "launch_assign", full)
    with pytest.raises(type(error)) as raised:
        assign(torch.zeros(1, 1, 4, 64), torch.zeros(1, 1, 2, 64), backend="triton")
    assert raised.value is error and failures() == {}


def test_a_kernel_too_large_for_the_card_is_a_failure(monkeypatch):
    errors = pytest.importorskip("triton.runtime.errors")
    kernel = importlib.import_module("sparse_videogen.kernels.assign.triton_kernel")

    def too_large(*args):
        raise errors.OutOfResources(232448, 101376, "shared memory")

    monkeypatch.setattr(kernel, "launch_assign", too_large)
    assign(torch.zeros(1, 1, 4, 64), torch.zeros(1, 1, 2, 64), backend="triton")
    assert "out of resource: shared memory" in failures()["assign (cpu, float32)"]


@pytest.mark.parametrize("asked, hip, got", [(None, None, "tf32"), ("ieee", None, "ieee"), ("tf32x3", "6.4", "ieee")], ids=str)
def test_float32_precision(asked, hip, got, monkeypatch):
    monkeypatch.delenv("SPARSE_VIDEOGEN_FLOAT32", raising=False)
    if asked:
        monkeypatch.setenv("SPARSE_VIDEOGEN_FLOAT32", asked)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert runpy.run_path(compat.__file__)["float32_precision"]() == got


def test_a_bad_float32_precision_is_refused_as_the_kernels_load():
    script = "from load_pack import load_pack; load_pack(); import sparse_videogen.kernels"
    environment = os.environ | {"SPARSE_VIDEOGEN_FLOAT32": "exact", "PYTHONPATH": HARNESS}
    result = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    last = result.stderr.splitlines()[-1]
    assert last == "ValueError: SPARSE_VIDEOGEN_FLOAT32='exact': must be one of tf32, tf32x3, ieee"
