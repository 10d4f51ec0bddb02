"""Which implementation runs, and what happens when a kernel fails."""

from __future__ import annotations

import importlib
import runpy
import sys

import pytest
import torch
from sparse_videogen.kernels import backend as backends
from sparse_videogen.kernels import backend_status, compat, failures, tile_configs
from sparse_videogen.kernels.assign import assign
from sparse_videogen.kernels.assign.reference import assign as reference
from sparse_videogen.kernels.gather_attention import gather_attention
from sparse_videogen.kernels.plan import Plan
from sparse_videogen.kernels.tile_configs import TileConfig, config_for, table
from sparse_videogen.svg_core import Call, SVGConfig, VideoLayout

CPU = torch.device("cpu")
TENSORS = (torch.bfloat16, 128)


@pytest.fixture(autouse=True)
def kernels_do_not_fall_back():
    """Here they shall: overrides the fixture that forbids it."""
    yield
    backends._failures.clear()


@pytest.fixture
def launching(monkeypatch):
    """launching(does, op): the op's launcher is `does`, or raises it where it is an error."""

    def replaced(does, op="assign"):
        def fails(*args):
            raise does

        kernel = pytest.importorskip(f"sparse_videogen.kernels.{op}.triton_kernel")
        monkeypatch.setattr(kernel, f"launch_{op}", fails if isinstance(does, Exception) else does)

    return replaced


def assigned(dtype=torch.float32, device=CPU):
    """Labels by Triton, or what takes its place; and torch's."""
    rng = torch.Generator().manual_seed(0)
    x, centroids = (torch.randn(1, 1, n, 64, generator=rng).to(device, dtype) for n in (50, 5))
    return assign(x, centroids, backend="triton"), reference(x, centroids, None)


def test_torch_runs_on_a_cpu_and_where_it_is_asked_for():
    assert backend_status(CPU, *TENSORS) == backend_status(torch.device("cuda"), *TENSORS, "torch") == ("torch", None)


@pytest.mark.parametrize("device, backend", [("mps", "auto"), ("cpu", "triton")])
def test_a_device_that_triton_does_not_know_has_no_backend(device, backend, monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    name, reason = backend_status(torch.device(device), *TENSORS, backend)
    assert name == "triton" and f"'{device}' and Triton needs an NVIDIA or AMD GPU" in reason


def test_without_triton_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend_status(CPU, *TENSORS, "triton")[1].startswith("Triton is not installed; run 'pip install triton'")
    missing = "backend='triton' cannot run: Triton is not installed; .* Or choose backend 'torch'"
    with pytest.raises(RuntimeError, match=missing):
        Call.of(torch.empty(1, 1, 8, 64), SVGConfig(), VideoLayout(2, 2, 2), backend="triton")


@pytest.fixture
def card(monkeypatch):
    """card(capability): a GPU of this capability seems to be here, and is returned."""
    pytest.importorskip("triton")

    def seem(capability):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
        for module in (backends, tile_configs):
            monkeypatch.setattr(module, "architecture", lambda device: "{}.{}".format(*capability))
        return torch.device("cuda")

    return seem


@pytest.mark.parametrize("capability, runs", [((7, 5), False), ((8, 0), True), ((12, 0), True)], ids=str)
def test_a_gpu_too_old_is_refused_by_name(capability, runs, card):
    device = card(capability)
    for backend in ("auto", "triton"):
        name, reason = backend_status(device, *TENSORS, backend)
        assert name == "triton" and (reason is None) == runs
        assert runs or reason.startswith("Tesla T4 has compute capability 7.5, and the kernels need 8.0")


def test_a_gpu_whose_table_has_no_config_is_refused(card, monkeypatch):
    device = card((8, 0))
    entry = {"gather_attention": {"8.0": {"128": None, "64": {"block_m": 64, "block_n": 64, "num_warps": 4, "num_stages": 2}}}}
    monkeypatch.setattr(tile_configs, "table", lambda: entry)
    monkeypatch.setattr(tile_configs, "config_for", tile_configs.config_for.__wrapped__)
    assert backend_status(device, *TENSORS)[1] == "gather_attention has no Triton kernel for head_dim 128 on 8.0"
    assert backend_status(device, torch.bfloat16, 64) == ("triton", None)


def test_a_failing_gather_kernel_is_raised_and_not_replaced_by_torchs_loop(card, launching):
    launching(RuntimeError("no ptxas"), "gather_attention")
    q = torch.zeros(1, 1, 16, 64)
    index, zero = torch.arange(16, dtype=torch.int32), torch.zeros(1, 1, dtype=torch.int32)
    plan = Plan(zero, index.view(1, 1, 16), index, zero.long(), zero + 16)
    for _ in range(2):
        with pytest.raises(RuntimeError, match=r"kernel of gather_attention \(cpu, float32\) failed: RuntimeError: no ptxas"):
            gather_attention(q, q, q, plan, sm_scale=1.0, backend="triton")
    assert failures() == {"gather_attention (cpu, float32)": "RuntimeError: no ptxas"}

    device = card((9, 0))
    assert backend_status(device, torch.float32, 64) == ("triton", None)
    backends._failures["gather_attention (9.0, float32)"] = "RuntimeError: no ptxas"
    assert "failed before (RuntimeError: no ptxas)" in backend_status(device, torch.float32, 64)[1]
    assert backend_status(device, torch.float16, 64) == ("triton", None)


@pytest.mark.parametrize("alias, known", [("8.7", "8.6"), ("10.3", "10.0"), ("12.1", "12.0")])
def test_a_gpu_with_the_units_of_another_has_its_configs(alias, known):
    for op, by_arch in table().items():
        for head_dim in (64, 128):
            assert config_for(op, head_dim, alias) == config_for(op, head_dim, known)
            own = by_arch.get(known, {}).get(str(head_dim))
            assert own is None or config_for(op, head_dim, alias) == TileConfig(**own)


@pytest.mark.parametrize("name", ["128x64w8s5", "64x16w8s1t16d16a", "128x32w8s5t32d128", "128x64w8s5-float8_e4m3fn"])
def test_a_config_is_what_its_name_says(name):
    assert str(TileConfig.parse(name)) == name
    with pytest.raises(ValueError, match="tile config '128x64': must look like"):
        TileConfig.parse("128x64")


def test_a_failing_kernel_is_said_once_and_torch_takes_over(launching, caplog):
    errors = pytest.importorskip("triton.runtime.errors")
    too_large = errors.OutOfResources(232448, 101376, "shared memory")  # for the card, at any time: no lack of memory
    for count, error in enumerate((RuntimeError("no ptxas"), too_large), 1):
        launching(error)
        backends._failures.clear()
        for _ in range(2):
            assert torch.equal(*assigned())
        assert failures() == {"assign (cpu, float32)": f"{type(error).__name__}: {error}"}
        assert len(caplog.records) == count and caplog.records[-1].exc_info
        assert "Triton kernel of assign (cpu, float32) failed" in caplog.records[-1].message


def test_a_failure_turns_off_nothing_for_another_dtype_or_card(launching, monkeypatch):
    broken, works = ("8.0", torch.float32), [("8.0", torch.float16), ("9.0", torch.float32)]
    calls = []

    def launch(x, centroids, metric):
        calls.append((card, x.dtype))
        if calls[-1] == broken:
            raise RuntimeError("no ptxas")
        return reference(x, centroids, metric)

    launching(launch)
    for card, dtype in [broken, *works, broken, *works]:
        monkeypatch.setattr(backends, "architecture", lambda device, card=card: card)
        assigned(dtype)
    assert calls == [broken, *works, *works]
    assert failures() == {"assign (8.0, float32)": "RuntimeError: no ptxas"}


def test_a_missing_kernel_is_said_once_and_the_others_still_run(device, launching, monkeypatch, caplog):
    kernel = pytest.importorskip("sparse_videogen.kernels.assign.triton_kernel")
    launch, launched = kernel.launch_assign, []

    def no_float32(x, centroids, metric):
        if x.dtype == torch.float32:
            raise backends.NoTileConfig("assign has no Triton kernel for float32")
        launched.append(x.dtype)
        return launch(x, centroids, metric)

    monkeypatch.setattr(backends, "_without_kernel", set())
    launching(no_float32)
    for _ in range(2):
        assert torch.equal(*assigned(device=device))
    assert [record.message for record in caplog.records] == [
        "[sparse_videogen] assign has no Triton kernel for float32; torch does its work there"
    ]
    assert torch.equal(*assigned(torch.float16, device)) and launched == [torch.float16] and failures() == {}


OUT_OF_MEMORY = [
    torch.cuda.OutOfMemoryError("full"),
    getattr(torch, "AcceleratorError", RuntimeError)("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("Triton Error [HIP]:  Code: 2, Messsage: out of memory"),
]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=repr)
def test_out_of_memory_is_the_callers(error, launching):
    launching(error)
    with pytest.raises(type(error)) as raised:
        assigned()
    assert raised.value is error and failures() == {}


@pytest.mark.parametrize("asked, hip, got", [(None, None, "tf32"), ("ieee", None, "ieee"), ("tf32x3", "6.4", "ieee")], ids=str)
def test_float32_precision(asked, hip, got, monkeypatch):
    monkeypatch.delenv("SPARSE_VIDEOGEN_FLOAT32", raising=False)
    if asked:
        monkeypatch.setenv("SPARSE_VIDEOGEN_FLOAT32", asked)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert runpy.run_path(compat.__file__)["float32_precision"]() == got


def test_a_bad_float32_precision_is_refused_as_the_kernels_load(monkeypatch):
    monkeypatch.setenv("SPARSE_VIDEOGEN_FLOAT32", "exact")
    for name in [name for name in sys.modules if name.startswith("sparse_videogen.kernels")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ValueError, match="SPARSE_VIDEOGEN_FLOAT32='exact': must be one of tf32, tf32x3, ieee"):
        importlib.import_module("sparse_videogen.kernels")
