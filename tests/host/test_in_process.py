"""What goes wrong inside: each fault ends in a finished render and one clear line.

Models that are no video model, and what importing the nodes costs, are here too.
"""

from __future__ import annotations

import compileall

import pytest
from in_process import run_in_host
from load_pack import ROOT

FAULTS = """
import sparse_videogen.nodes.attend as attend_module
from unittest.mock import patch as replaced
from dataclasses import replace
from sparse_videogen.svg_core import SparseState, attention

model = load()
plain = sample(model)

def fault(name, target, attribute, broken, method="SVG2", **settings):
    with replaced.object(target, attribute, broken):
        out = sample(patch(model, method, **settings))
    tell(name, finite=bool(out.isfinite().all()), plain=bool(torch.equal(out, plain)))

def raises(error):
    def broken(*args, **kwargs):
        raise error
    return broken

fault("executor raises", attention, "gather_attention", raises(RuntimeError("no kernel image")))
fault("plan raises", attention, "plans", raises(IndexError("a bad plan")), method="SVG")
fault("warm-up raises", attend_module, "warm_up", raises(RuntimeError("in warm-up")), start_percent=0.5)
fault("out of memory", attention, "gather_attention", raises(torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")))

import sparse_videogen.nodes.memory as memory_module
import sparse_videogen.nodes.patch as patch_module
expected = sample(patch(model, "SVG2"))
said.clear()
with replaced.object(memory_module, "tile_rows", raises(RuntimeError("no tiles"))):
    out = sample(patch(model, "SVG2"))
tell("memory not told", same=bool(torch.equal(out, expected)))

def with_another(dense_attention):
    # A model with another pack's override, and the self-attention calls that reach it.
    reached, model_ = [], model.clone()
    def another(func, q, k, v, *args, **kwargs):
        reached.extend([1] * (q.shape == k.shape))
        return func(q, k, v, *args, **kwargs)
    model_.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = another
    return reached, patch(model_, "SVG2", dense_attention=dense_attention)
for name, attribute in {"a forward": "__init__", "a call": "video_call"}.items():
    for dense_attention in ("previous", "host"):
        reached, patched = with_another(dense_attention)
        with replaced.object(patch_module.Forward, attribute, raises(TypeError("not as known"))):
            out = sample(patched)
        tell(f"{name}, {dense_attention}", same=bool(torch.equal(out, plain)), reached=len(reached))

calls, gather = [], attention.gather_attention
def memory_for_one_head(q, *args, **kwargs):
    calls.append(q.shape[1])
    if q.shape[1] > 1:
        raise torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
    return gather(q, *args, **kwargs)
expected = sample(patch(model, "SVG2"))
said.clear()
small = replaced("sparse_videogen.nodes.memory.WORKSPACE_BYTES", 1 << 21)
with small, replaced.object(attention, "gather_attention", memory_for_one_head):
    out = sample(patch(model, "SVG2"))
tell("memory for one head", difference=(out - expected).abs().max().item(), failed=calls.count(2), calls=len(calls))

calls.clear()
def no_memory_once(q, *args, **kwargs):  # in the words of a kernel's launch
    calls.append(q.shape[1])
    if len(calls) == 1:
        raise RuntimeError("Triton Error [CUDA]: out of memory")
    return gather(q, *args, **kwargs)
with replaced.object(attention, "gather_attention", no_memory_once):
    out = sample(patch(model, "SVG2"))
tell("a kernel's memory", difference=(out - expected).abs().max().item(), calls=len(calls))

module = model.model.diffusion_model.blocks[1].self_attn.norm_q
with torch.no_grad():
    weight = module.weight.clone()
    module.weight[3] = float("nan")
    for method in CONFIGS:
        out = sample(patch(model, method))
        tell(f"NaN in q, {method}", shape=list(out.shape))
    module.weight.copy_(weight)
tell("NaN gone", plain=bool(torch.equal(sample(model), plain)))

import threading
expected = {seed: sample(patch(model, "SVG2"), seed) for seed in (0, 1)}
shared, results = patch(model, "SVG2"), {}
threads = [threading.Thread(target=lambda seed=seed: results.update({seed: sample(shared, seed)})) for seed in expected]
# The host's cleanup takes the patcher from its model, and so from the thread that still samples: its race, not ours.
with replaced.object(comfy.model_patcher.ModelPatcher, "cleanup", lambda self: None):
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
shared.cleanup()
tell("two threads", equal=[bool(torch.equal(results[seed], expected[seed])) for seed in expected])

import importlib, os
from contextlib import ExitStack
from sparse_videogen.kernels import backend
expected = sample(patch(model, "SVG2"))
said.clear()
os.environ["TRITON_INTERPRET"] = "1"
with ExitStack() as stack:
    for op in ("gather_attention", "assign", "centroids", "select", "pack_lists"):
        package = "pack" if op == "pack_lists" else op
        kernel = importlib.import_module(f"sparse_videogen.kernels.{package}.triton_kernel")
        stack.enter_context(replaced.object(kernel, f"launch_{op}", raises(RuntimeError("ptxas died"))))
    out = sample(patch(model, "SVG2", backend="triton"))
backend._failures.clear()
tell("kernels raise", same=bool(torch.equal(out, expected)))
del os.environ["TRITON_INTERPRET"]

import comfy.model_management
from sparse_videogen.nodes.families import family_of
from sparse_videogen.nodes.memory import run_bytes
asked, load_models = [], comfy.model_management.load_models_gpu
def ask(*args, **kwargs):
    asked.append(kwargs["memory_required"])
    return load_models(*args, **kwargs)
with replaced.object(comfy.model_management, "load_models_gpu", ask):
    for each in (model, patch(model, "SVG"), patch(model, "SVG2"), patch(model, "SVG2", min_tokens=10_000)):
        sample(each)
options, family = {"start_percent": 0.0, "min_tokens": 0}, family_of(model.model.diffusion_model)
conds = {"positive": [{}], "negative": [{}]}
SIZE = (1, 16, 5, 16, 24)
expected = [run_bytes(Settings(config, **options), family, model, SIZE, conds)(2) for config in CONFIGS.values()]
tell("memory", asked=asked, expected=expected, left="memory_required" in vars(model.model))

import comfy.samplers
def batches(patcher):
    # Elements of each forward, with memory for two conditionings of the dense model and not for more.
    sizes, forward = [], model.model.diffusion_model.forward
    def watched(x, *args, **kwargs):
        sizes.append(len(x))
        return forward(x, *args, **kwargs)
    enough = 1.5 * model.model.memory_required([2, *SIZE[1:]]) + 1e5
    calc = comfy.samplers._calc_cond_batch
    def with_little_memory(*args):
        with replaced.object(comfy.model_management, "get_free_memory", lambda *args, **kwargs: enough):
            return calc(*args)
    with replaced.object(comfy.samplers, "_calc_cond_batch", with_little_memory):
        with replaced.object(model.model.diffusion_model, "forward", watched):
            out = sample(patcher)
    return sizes, out
sizes, out = batches(model)
ours, out_ours = batches(patch(model, "SVG2"))
alone = (out_ours - sample(patch(model, "SVG2"))).abs().max().item()
tell("batches", plain=sizes, ours=ours, same=bool(torch.equal(out, plain)), difference=alone)

class OnTwo:
    # The patcher of a model that the host has on a second device as well.
    def get_additional_models_with_key(self, key):
        return ["another"] if key == "multigpu" else []
    def __getattr__(self, name):
        return getattr(model, name)
one, two = (run_bytes(Settings(CONFIGS["SVG2"], **options), family, each, SIZE, conds) for each in (model, OnTwo()))
none = run_bytes(Settings(CONFIGS["SVG2"], **options), family, model, SIZE, {"positive": []})
tell("two devices", branches=[len(one.calls), len(two.calls)], bytes=[one(1), two(1)], none=none(1) == two(1))

import time
from sparse_videogen.nodes.memory import tell_host
told_extra, failed = [], []
def load_slowly(patcher):
    told_extra.append(patcher.model.memory_required(input_shape=[1, 16, 5, 16, 24]))
    time.sleep(0.05)  # the other threads have come by then
def tell_one():
    try:
        tell_host(load_slowly, lambda batch: 1000 * batch, model)
    except Exception as error:
        failed.append(repr(error))
threads = [threading.Thread(target=tell_one) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
alone = model.model.memory_required([1, 16, 5, 16, 24])
model.model.memory_required = another = lambda *args, **kwargs: 7
tell_host(load_slowly, lambda batch: 1000 * batch, model)
kept = vars(model.model).pop("memory_required", None) is another
tell("threads tell", extra=[asked - alone for asked in told_extra[:4]], other=told_extra[4], failed=failed, kept=kept)
tell("after all", plain=bool(torch.equal(sample(model), plain)))

from sparse_videogen.nodes.report import draw_report, time_lines
from sparse_videogen.nodes.run import Run
run = Run(Settings(CONFIGS["SVG"]), 1.0, 0.0)
run.count_dense("dense_blocks: 0", layer=0)
with run.record.timed("dense", torch.device("mps")):
    pass
report = run.close()
tell("no time", lines=time_lines(report), drawn=list(draw_report(report).shape))
"""


LIFETIMES = """
import gc, weakref
from sparse_videogen.nodes.forward import Forward
from sparse_videogen.nodes.run import Run
gc.collect()
gc.disable()
model = load()
for method in CONFIGS:
    patched = patch(model, method)
    sample(patched)
    tell(method, alive=[type(x).__name__ for x in gc.get_objects() if isinstance(x, (Forward, Run))])
"""


def test_nothing_of_a_run_outlives_it(host, tmp_path):
    """Without waiting for the garbage collector: its tensors are on the GPU."""
    told = run_in_host(host.path, LIFETIMES, tmp_path)
    assert told["SVG"]["alive"] == told["SVG2"]["alive"] == []


@pytest.fixture(scope="module")
def faults(host, tmp_path_factory):
    return run_in_host(host.path, FAULTS, tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    "name, line, counted",
    [
        ("executor raises", "SVG2 failed; the rest of this run is dense", "8 error"),
        ("plan raises", "SVG failed; the rest of this run is dense", "8 error"),
        ("warm-up raises", "SVG2 failed; the rest of this run is dense", "error"),
        ("out of memory", "SVG2 failed; the rest of this run is dense", "8 out_of_memory"),
    ],
)
def test_an_error_ends_in_the_dense_render(faults, name, line, counted):
    told = faults[name]
    assert told["plain"] and told["finite"]
    assert sum(line in said for said in told["said"]) == 1
    assert counted in told["said"][-1]


def test_memory_that_cannot_be_estimated_costs_no_render(faults):
    told = faults["memory not told"]
    assert told["same"] and sum("memory not estimated" in said for said in told["said"]) == 1


@pytest.mark.parametrize("what", ["a forward", "a call"])
def test_after_an_error_the_dense_calls_go_where_they_are_to_go(faults, what):
    for dense_attention, reached in (("previous", 12), ("host", 0)):
        told = faults[f"{what}, {dense_attention}"]
        assert told["same"] and told["reached"] == reached
        assert sum("SVG2 failed; the rest of this run is dense" in said for said in told["said"]) == 1
        assert "sparse 0/" in told["said"][-1] and " error" in told["said"][-1]


def test_out_of_memory_goes_on_with_fewer_heads(faults):
    told = faults["memory for one head"]
    assert told["difference"] == 0 and told["failed"] >= 1 and told["calls"] > told["failed"]
    assert sum("out of memory, so fewer heads at a time from here on" in said for said in told["said"]) == 1
    assert "sparse 8/12 calls" in told["said"][-1]


def test_out_of_memory_in_a_kernels_own_words_goes_on_sparse(faults):
    told = faults["a kernel's memory"]
    assert told["difference"] == 0 and "sparse 8/12 calls" in told["said"][-1]
    assert not any("failed" in said for said in told["said"])


@pytest.mark.parametrize("method", ["SVG", "SVG2"])
def test_nan_in_the_model_ends_in_a_finished_render(faults, method):
    told = faults[f"NaN in q, {method}"]
    assert told["shape"] == [1, 16, 5, 16, 24]
    (line,) = (said for said in told["said"] if "NaN or infinity" in said)
    assert "in dense attention too: the model's q, k or v brought it" in line and "fault" not in line
    assert faults["NaN gone"]["plain"]


def test_two_threads_at_once_get_what_they_would_alone(faults):
    assert faults["two threads"]["equal"] == [True, True]


def test_kernels_that_raise_hand_over_to_torch(faults):
    told = faults["kernels raise"]
    ops = ("gather_attention", "assign", "centroids", "select")
    kernels = [f"{op} (cpu, float32)" for op in ops] + ["pack_lists (cpu, int32)"]
    lines = [f"the Triton kernel of {kernel} failed; torch does its work from now on" for kernel in kernels]
    assert told["same"] and all(sum(line in said for said in told["said"]) == 1 for line in lines)
    assert "sparse 8/12 calls" in told["said"][-1] and "torch in place of Triton: assign (cpu, float32)," in told["said"][-1]


def test_the_host_is_told_how_much_memory_a_run_takes(faults):
    told = faults["memory"]
    plain, *patched, too_short = told["asked"]
    assert [asked - plain for asked in patched] == told["expected"] and min(told["expected"]) > 1e5
    assert too_short == plain and not told["left"]


def test_the_host_batches_no_more_conditionings_than_a_run_has_memory_for(faults):
    told = faults["batches"]
    assert told["plain"] == [2] * 4 and told["ours"] == [1] * 8
    assert told["same"] and told["difference"] < 1e-4


def test_conditionings_count_for_the_device_that_computes_them(faults):
    told = faults["two devices"]
    assert told["branches"] == [2, 1] and told["bytes"][0] > told["bytes"][1] > 1e5
    assert told["none"]  # a guider without conditionings is asked as one with one


def test_threads_that_load_one_model_each_tell_their_own_memory(faults):
    told = faults["threads tell"]
    assert told["failed"] == [] and told["extra"] == [1000] * 4


def test_another_packs_estimate_is_raised_and_kept(faults):
    assert faults["threads tell"]["other"] == 1007 and faults["threads tell"]["kept"]


def test_nothing_stays_behind(faults):
    assert faults["after all"]["plain"] and faults["after all"]["said"] == []


def test_the_report_says_where_time_is_not_measured(faults):
    assert faults["no time"]["lines"] == ["not measured on mps"] and faults["no time"]["drawn"] == [1, 1000, 1280, 3]


NO_VIDEO = """
from comfy.model_patcher import ModelPatcher

class Image(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.diffusion_model = torch.nn.Linear(4, 4)

model = ModelPatcher(Image(), torch.device("cpu"), torch.device("cpu"))
patched = patch(model, "SVG")
options = patched.model_options.get("transformer_options", {})
changed = "optimized_attention_override" in options or any(patched.wrappers.values())
tell("linear", same=patched is model, changed=changed)

import comfy.patcher_extension as extension
from sparse_videogen.nodes.run import Run

class Unlike(torch.nn.Module):
    # Cuts something into patches of three sizes, and calls it by another name than x.
    patch_size = (1, 2, 2)
    def forward(self, hidden, transformer_options):
        return hidden + 1

module = Unlike()
patched = patch(ModelPatcher(torch.nn.ModuleDict({"diffusion_model": module}), torch.device("cpu"), torch.device("cpu")), "SVG")
wrappers = extension.get_all_wrappers(extension.WrappersMP.DIFFUSION_MODEL, {"wrappers": patched.wrappers})
executor = extension.WrapperExecutor.new_class_executor(module.forward, module, wrappers)
run = Run(Settings(CONFIGS["SVG"]), 1.0, 0.0)
out = executor.execute(torch.zeros(2), transformer_options={"sparse_videogen": run, "sigmas": torch.ones(1)})
tell("unlike", out=out.tolist(), reasons=run.report()["dense_reasons"])

class Packed(Unlike):
    # Video and sound as a list, as MiniMax-H3 has them.
    def forward(self, x, transformer_options):
        return x[0] + 1

module = Packed()
executor = extension.WrapperExecutor.new_class_executor(module.forward, module, wrappers)
run = Run(Settings(CONFIGS["SVG"]), 1.0, 0.0)
for _ in range(2):
    packed = [torch.zeros(1, 24, 3, 8, 10), torch.zeros(1, 32, 9)]
    out = executor.execute(packed, transformer_options={"sparse_videogen": run, "sigmas": torch.ones(1)})
tell("packed", out=out.max().item(), reasons=run.report()["dense_reasons"])
"""


def test_an_unknown_model_passes_unchanged(host, tmp_path):
    told = run_in_host(host.path, NO_VIDEO, tmp_path)["linear"]
    assert not told["same"] and not told["changed"]
    (line,) = told["said"]
    assert line.startswith("[sparse_videogen] SVG: Linear is no video model that this node knows (")
    assert line.endswith("; nothing changes")


def test_a_forward_unlike_any_known_goes_on(host, tmp_path):
    told = run_in_host(host.path, NO_VIDEO, tmp_path)["unlike"]
    assert told["out"] == [1.0, 1.0]
    assert told["said"][-1].endswith("stays dense, layout: this model's input x is missing, not a video [B, C, T, H, W]")
    assert told["reasons"] == {"layout": 1}


def test_a_model_whose_input_is_a_list_stays_dense_for_one_clear_reason(host, tmp_path):
    told = run_in_host(host.path, NO_VIDEO, tmp_path)["packed"]
    assert told["out"] == 1 and told["reasons"] == {"layout": 2}
    assert [line.split("SVG: ")[1] for line in told["said"] if "stays dense" in line or "failed" in line] == [
        "stays dense, layout: this model's input x is a list, not a video [B, C, T, H, W]"
    ]


def test_importing_the_nodes_brings_nothing_heavy(host, tmp_path):
    """All of them, which `tests/test_package.py` cannot without a host."""
    for layer in ("kernels", "svg_core", "nodes"):
        compileall.compile_dir(ROOT / layer, quiet=1)  # else the first start after a change pays for it
    told = run_in_host(host.path, 'tell("import", seconds=import_seconds, brought=brought)', tmp_path)["import"]
    assert "sparse_videogen.nodes.patch" in told["brought"]
    # torch._dynamo, 1.4 s, for torch.compiler.disable: but the host's torchvision has imported it before.
    heavy = ("torch._dynamo", "torch._inductor", "triton", "matplotlib", "kornia")
    assert [name for name in told["brought"] if name.startswith(heavy)] == [] and told["seconds"] < 0.1
