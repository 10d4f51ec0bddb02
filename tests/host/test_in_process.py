"""What goes wrong inside: each fault ends in a finished render and one clear line.

Models that are no video model, and what importing the nodes costs, are here too.
"""

from __future__ import annotations

import compileall

import pytest
from in_process import run_in_host
from load_pack import ROOT
from tiny_checkpoints import write_checkpoint

FAULTS = """
import importlib, os, threading, time
from contextlib import ExitStack
from unittest.mock import patch as replaced
import comfy.model_management, comfy.samplers
import sparse_videogen.nodes.attend as attend_module
import sparse_videogen.nodes.memory as memory_module
import sparse_videogen.nodes.patch as patch_module
from sparse_videogen.kernels import backend
from sparse_videogen.svg_core import attention

model = load()
plain, expected = sample(model), sample(patch(model, "SVG2"))
said.clear()

def fault(name, *broken, patched=None, method="SVG2", facts=dict, **settings):
    # A render while attributes of modules are others, and which of the two above it is like.
    with ExitStack() as stack:
        for target, attribute, replacement in broken:
            stack.enter_context(replaced.object(target, attribute, replacement))
        out = sample(patched or patch(model, method, **settings))
    like = {"dense": torch.equal(out, plain), "sparse": torch.equal(out, expected)}
    tell(name, like=[which for which, is_so in like.items() if is_so], shape=list(out.shape), **facts())

def raises(error):
    def broken(*args, **kwargs):
        raise error
    return broken

no_memory = torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
fault("executor raises", (attention, "gather_attention", raises(RuntimeError("no kernel image"))))
fault("plan raises", (attention, "plans", raises(IndexError("a bad plan"))), method="SVG")
fault("warm-up raises", (attend_module, "warm_up", raises(RuntimeError("in warm-up"))), start_percent=0.5)
fault("out of memory", (attention, "gather_attention", raises(no_memory)))
fault("memory not told", (memory_module, "video_grid", raises(RuntimeError("no grid"))))

def with_another(dense_attention):
    # A model with another pack's override, and the self-attention calls that reach it.
    reached, model_ = [], model.clone()
    def another(func, q, k, v, *args, **kwargs):
        reached.extend([1] * (q.shape == k.shape))
        return func(q, k, v, *args, **kwargs)
    model_.model_options.setdefault("transformer_options", {})["optimized_attention_override"] = another
    return reached, patch(model_, "SVG2", dense_attention=dense_attention)
for name, attribute in {"a forward": "__init__", "a call": "_video_call"}.items():
    for dense_attention in ("previous", "host"):
        reached, patched = with_another(dense_attention)
        broken = (patch_module.Forward, attribute, raises(TypeError("not as known")))
        fault(f"{name}, {dense_attention}", broken, patched=patched, facts=lambda: {"reached": len(reached)})

calls, gather = [], attention.gather_attention
def gather_unless(error, fails):
    calls.clear()
    def with_less_memory(q, *args, **kwargs):
        calls.append(q.shape[1])
        if fails():
            raise error
        return gather(q, *args, **kwargs)
    return (attention, "gather_attention", with_less_memory)
for_one_head = gather_unless(no_memory, lambda: calls[-1] > 1)
counts = lambda: {"failed": calls.count(2), "calls": len(calls)}
fault("memory for one head", (memory_module, "WORKSPACE_BYTES", 1 << 21), for_one_head, facts=counts)
in_a_kernels_words = RuntimeError("Triton Error [CUDA]: out of memory")
fault("a kernel's memory", gather_unless(in_a_kernels_words, lambda: len(calls) == 1))

died_once = []
def without_int8(wanted, *args):
    left = ("16 bit", "precision 'int8' cannot run: its kernel failed before; '16 bit' runs in its place")
    return left if died_once else ("int8", None)
def gather_in_16_bit(*args, **kwargs):
    if kwargs.get("precision") == "int8":
        died_once.append(True)
        raise RuntimeError("ptxas died")
    return gather(*args, **kwargs)
places = [(importlib.import_module(f"sparse_videogen.{name}"), "nearest_precision", without_int8)
          for name in ("nodes.run", "svg_core.call")]
fault("no int8 kernel", *places, (attention, "gather_attention", gather_in_16_bit), precision="int8")

module = model.model.diffusion_model.blocks[1].self_attn.norm_q
with torch.no_grad():
    weight = module.weight.clone()
    module.weight[3] = float("nan")
    for method in CONFIGS:
        fault(f"NaN in q, {method}", method=method)
    module.weight.copy_(weight)
tell("NaN gone", plain=bool(torch.equal(sample(model), plain)))

os.environ["TRITON_INTERPRET"] = "1"
launches = {op: op for op in ("assign", "centroids", "bins", "score")} | {"spend": "budget", "pack_lists": "pack"}
def kernels(ops, launch):
    for op, package in ops.items():
        yield importlib.import_module(f"sparse_videogen.kernels.{package}.triton_kernel"), f"launch_{op}", launch
gather_kernel, died = {"gather_attention": "gather_attention"}, raises(RuntimeError("ptxas died"))
# Triton cannot run here, so torch stands in for the kernel that is needed.
from sparse_videogen.kernels.gather_attention import reference
fault("kernels raise", *kernels(launches, died), *kernels(gather_kernel, reference.gather_attention), backend="triton")
backend._failures.clear()
fault("no gather kernel", *kernels({**launches, **gather_kernel}, died), backend="triton")
backend._failures.clear()
del os.environ["TRITON_INTERPRET"]

alone = {seed: sample(patch(model, "SVG2"), seed) for seed in (0, 1)}
shared, results = patch(model, "SVG2"), {}
threads = [threading.Thread(target=lambda seed=seed: results.update({seed: sample(shared, seed)})) for seed in alone]
# The host's cleanup takes the patcher from its model, and so from the thread that still samples: its race, not ours.
with replaced.object(comfy.model_patcher.ModelPatcher, "cleanup", lambda self: None):
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
shared.cleanup()
tell("two threads", equal=[bool(torch.equal(results[seed], alone[seed])) for seed in alone])

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
told_bytes = [run_bytes(Settings(config, **options), family, model, SIZE, conds)(2) for config in CONFIGS.values()]
tell("memory", asked=asked, expected=told_bytes, left="memory_required" in vars(model.model))

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
tell("batches", plain=sizes, ours=ours, same=bool(torch.equal(out, plain)), finite=bool(out_ours.isfinite().all()))

class OnTwo:
    # The patcher of a model that the host has on a second device as well.
    def get_additional_models_with_key(self, key):
        return ["another"] if key == "multigpu" else []
    def __getattr__(self, name):
        return getattr(model, name)
one, two = (run_bytes(Settings(CONFIGS["SVG2"], **options), family, each, SIZE, conds) for each in (model, OnTwo()))
none = run_bytes(Settings(CONFIGS["SVG2"], **options), family, model, SIZE, {"positive": []})
tell("two devices", branches=[len(one.calls), len(two.calls)], bytes=[one(2), two(2)], none=none(1) == two(1))

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

from sparse_videogen.nodes.lines import time_lines
from sparse_videogen.nodes.reasons import Reason
from sparse_videogen.nodes.report import draw_report
from sparse_videogen.nodes.run import Run
run = Run(Settings(CONFIGS["SVG"]), 1.0, 0.0)
run.count_dense(Reason("dense_blocks", "0"), layer=0)
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


FAILED = "SVG2 failed; the rest of this run is dense"
KERNELS = [f"{op} (cpu, float32)" for op in ("assign", "centroids", "bins", "score", "spend")] + ["pack_lists (cpu, int32)"]
# Faults beside another pack's override, and where dense calls are to go.
WITH_ANOTHER = [f"{what}, {goes_to}" for what in ("a forward", "a call") for goes_to in ("previous", "host")]
SPARSE = "8 of 12 calls sparse"
# Fault -> which render it ends in, the lines that are said once, what the run's last line holds.
ENDS = {
    "executor raises": ("dense", [FAILED], "8 error"),
    "plan raises": ("dense", ["SVG failed; the rest of this run is dense"], "8 error"),
    "warm-up raises": ("dense", [FAILED], "error"),
    "out of memory": ("dense", [FAILED], "8 out_of_memory"),
    "memory not told": ("sparse", ["could not be estimated"], SPARSE),
    **dict.fromkeys(WITH_ANOTHER, ("dense", [FAILED], " error")),
    "memory for one head": ("sparse", ["out of memory: from here on fewer heads are computed at a time"], SPARSE),
    "a kernel's memory": ("sparse", [], SPARSE),
    "no int8 kernel": (
        "sparse",
        [
            "precision 'int8' cannot run: its kernel failed before",
            "a kernel failed; more bits than 'int8' are taken from now on",
        ],
        SPARSE,
    ),
    "kernels raise": (
        "sparse",
        [f"the Triton kernel of {kernel} failed; torch does its work from now on" for kernel in KERNELS],
        "Triton kernels that failed: assign (cpu, float32),",
    ),
    "no gather kernel": ("dense", [FAILED], "Triton kernels that failed: assign (cpu, float32), centroids"),
}


@pytest.mark.parametrize("name", ENDS)
def test_a_fault_ends_in_a_finished_render_and_one_clear_line(faults, name):
    told, (like, lines, last) = faults[name], ENDS[name]
    assert told["like"] == [like] and last in told["said"][-1]
    assert all(sum(line in said for said in told["said"]) == 1 for line in lines)
    assert any("the rest of this run is dense" in said for said in told["said"]) == (like == "dense")
    assert any(SPARSE in said for said in told["said"]) == (like == "sparse")
    if "failed" in told:  # with as many heads as at first
        assert told["calls"] > told["failed"] >= 1


@pytest.mark.parametrize("name", WITH_ANOTHER)
def test_after_an_error_the_dense_calls_go_where_they_are_to_go(faults, name):
    assert faults[name]["reached"] == (12 if "previous" in name else 0)
    assert "calls dense" in faults[name]["said"][-1]


@pytest.mark.parametrize("method", ["SVG", "SVG2"])
def test_nan_in_the_model_ends_in_a_finished_render(faults, method):
    told = faults[f"NaN in q, {method}"]
    assert told["shape"] == [1, 16, 5, 16, 24]
    (line,) = (said for said in told["said"] if "NaN or infinity" in said)
    assert "in dense attention too: it comes from the model's q, k or v" in line and "fault" not in line
    assert faults["NaN gone"]["plain"]


def test_two_threads_at_once_get_what_they_would_alone(faults):
    assert faults["two threads"]["equal"] == [True, True]


def test_the_host_is_told_how_much_memory_a_run_takes(faults):
    told = faults["memory"]
    plain, *patched, too_short = told["asked"]
    assert [asked - plain for asked in patched] == told["expected"] and min(told["expected"]) > 1e5
    assert too_short == plain and not told["left"]


def test_the_host_batches_no_more_conditionings_than_a_run_has_memory_for(faults):
    told = faults["batches"]
    assert told["plain"] == [2] * 4 and told["ours"] == [1] * 8
    assert told["same"] and told["finite"]


def test_conditionings_count_for_the_device_that_computes_them(faults):
    told = faults["two devices"]
    assert told["branches"] == [2, 1] and told["bytes"][0] > told["bytes"][1] > 1e5
    assert told["none"]  # a guider without conditionings is asked as one with one


def test_threads_that_load_one_model_each_tell_their_own_memory(faults):
    told = faults["threads tell"]
    assert told["failed"] == [] and told["extra"] == [1000] * 4
    assert told["other"] == 1007 and told["kept"]  # another pack's estimate is raised, and kept


def test_nothing_stays_behind(faults):
    assert faults["after all"]["plain"] and faults["after all"]["said"] == []


def test_the_report_says_where_time_is_not_measured(faults):
    assert faults["no time"]["lines"] == ["Not measured on mps."] and faults["no time"]["drawn"] == [1, 1000, 1280, 3]


WITH_AUDIO = """
import comfy.model_management
from unittest.mock import patch as replaced
from comfy.nested_tensor import NestedTensor
from sparse_videogen.nodes.families import family_of
from sparse_videogen.nodes.memory import run_bytes

SIZE = (1, 24, 5, 16, 24)
model, latent = load("minimax_h3"), NestedTensor((torch.zeros(SIZE), torch.zeros(1, 32, 2, 28)))
asked, load_models = [], comfy.model_management.load_models_gpu
def ask(*args, **kwargs):
    asked.append(kwargs["memory_required"])
    return load_models(*args, **kwargs)
positive, negative = ([[torch.randn(1, 12, 512), {"pooled_output": None}]] for _ in range(2))
with replaced.object(comfy.model_management, "load_models_gpu", ask), torch.inference_mode():
    for each in (model, *(patch(model, method) for method in CONFIGS)):
        noise = comfy.sample.prepare_noise(latent, 0)
        out = comfy.sample.sample(each, noise, 2, 5.0, "euler", "simple", positive, negative, latent, seed=0)
options, family = {"start_percent": 0.0, "min_tokens": 0}, family_of(model.model.diffusion_model)
conds = {"positive": [{}], "negative": [{}]}
told_bytes = [run_bytes(Settings(config, **options), family, model, SIZE, conds)(2) for config in CONFIGS.values()]
tell("memory", more=[bytes - asked[0] for bytes in asked[1:]], expected=told_bytes)
"""


def test_the_memory_of_a_run_with_audio_is_that_of_its_video(host, tmp_path):
    """The sampler has both as one row of numbers."""
    if "minimax_h3" not in host.families:
        pytest.skip(f"ComfyUI {host.version} has no MiniMax-H3")
    write_checkpoint("minimax_h3", tmp_path)
    told = run_in_host(host.path, WITH_AUDIO, tmp_path)["memory"]
    assert told["more"] == pytest.approx(told["expected"], rel=1e-3) and min(told["expected"]) > 1e5


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

class Packed(Unlike):
    # A list of several, whose first is no video.
    def forward(self, x, transformer_options):
        return x[0] + 1

for module, video in ((Unlike(), torch.zeros(2)), (Packed(), [torch.zeros(1, 32, 9), torch.zeros(2)])):
    whole = torch.nn.ModuleDict({"diffusion_model": module})
    patched = patch(ModelPatcher(whole, torch.device("cpu"), torch.device("cpu")), "SVG")
    wrappers = extension.get_all_wrappers(extension.WrappersMP.DIFFUSION_MODEL, {"wrappers": patched.wrappers})
    executor = extension.WrapperExecutor.new_class_executor(module.forward, module, wrappers)
    run = Run(Settings(CONFIGS["SVG"]), 1.0, 0.0)
    for _ in range(2):
        out = executor.execute(video, transformer_options={"sparse_videogen_run": run, "sigmas": torch.ones(1)})
    tell(type(module).__name__, ones=bool((out == 1).all()), reasons=run.report()["dense_reasons"])
"""


def test_what_is_no_video_model_goes_on_as_it_was(host, tmp_path):
    told = run_in_host(host.path, NO_VIDEO, tmp_path)
    unknown = told["linear"]
    assert not unknown["same"] and not unknown["changed"]
    (line,) = unknown["said"]
    assert line.startswith("[sparse_videogen] SVG: Linear is no video model that this node knows (")
    assert line.endswith("; it passes through unchanged")
    for name, what in {"Unlike": "missing", "Packed": "a list"}.items():
        assert told[name]["ones"] and told[name]["reasons"] == {"layout": 2}
        assert [line.split("SVG: ")[1] for line in told[name]["said"] if "stays dense" in line or "failed" in line] == [
            f"stays dense, layout: the input x of this model is {what}, not a video [B, C, T, H, W]"
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
