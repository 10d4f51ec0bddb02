"""What younger hosts do around an attention call: containers, a checkpoint's own attention, allocations planned ahead.

Containers are 0.33's own. The other two came later; small stand-ins keep to what is documented of them: the host drops the
argument `preferred_attention` before it calls an override, and `pause_malloc_graph()` is a context in which tensors may be
made that outlive a block of the model.
"""

from __future__ import annotations

import pytest
from in_process import run_in_host

# One attention layer that calls as MiniMax-H3's do, behind the wrappers of a patched model.
LAYER = """
import weakref
from unittest.mock import patch as replaced
import comfy.ldm.modules.attention as hosts
import comfy.patcher_extension as extension
from comfy.model_patcher import ModelPatcher
from sparse_videogen.nodes import host
from sparse_videogen.nodes.run import Run

H, D, GRID = 2, 128, (4, 8, 8)
TOKENS = 4 * 4 * 4
Container = getattr(hosts, "AttentionTensorContainer", None)

class Layer(torch.nn.Module):
    num_heads, dim, patch_size, comfy_attention = H, H * D, (1, 2, 2), None
    def forward(self, x, transformer_options):
        return self.attend(transformer_options)

def tensors():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, H, TOKENS, D, generator=generator) for _ in range(3)]

def call(attend, previous=None, settings={}, sigma=0.5):
    # What `attend` gives within a forward of a patched model, and the run's report.
    layer = type("WanModel", (Layer,), {})()
    layer.attend = attend
    model = ModelPatcher(torch.nn.ModuleDict({"diffusion_model": layer}), torch.device("cpu"), torch.device("cpu"))
    if previous is not None:
        model.model_options["transformer_options"] = {"optimized_attention_override": previous}
    patched = patch(model, "SVG2", dense_blocks=frozenset(), **settings)
    wrappers = extension.get_all_wrappers(extension.WrappersMP.DIFFUSION_MODEL, {"wrappers": patched.wrappers})
    executor = extension.WrapperExecutor.new_class_executor(layer.forward, layer, wrappers)
    run = Run(Settings(CONFIGS["SVG2"], start_percent=0.0, min_tokens=0, **settings), 1.0, 0.0)
    options = {**patched.model_options["transformer_options"], "sparse_videogen_run": run, "sigmas": torch.full((1,), sigma)}
    out = executor.execute(torch.zeros(1, 16, *GRID), transformer_options=options)
    report = run.report()
    return out, report["sparse_calls"], report["dense_reasons"]

def plain(options, attention=None, **kwargs):
    return (attention or hosts.optimized_attention)(*tensors(), H, skip_reshape=True, transformer_options=options, **kwargs)

def same(a, b):
    return bool(torch.equal(a, b))

dense = hosts.optimized_attention(*tensors(), H, skip_reshape=True)
sparse, calls, _ = call(plain)
OUTSIDE = {"sigma": 2.0}  # of the part of the schedule that runs sparse
"""

CONTAINERS = """
if Container is not None:
    kept = {}
    def contained(options, **kwargs):
        q, k, v = tensors()
        kept["containers"], kept["tensors"] = [Container(x) for x in (q, k, v)], [weakref.ref(x) for x in (q, k, v)]
        del q, k, v
        out = hosts.optimized_attention(*kept["containers"], H, skip_reshape=True, transformer_options=options, **kwargs)
        kept["alive"] = sum(x() is not None for x in kept["tensors"])
        kept["full"] = sum(x.tensor is not None for x in kept["containers"])
        return out

    def tell_call(name, expected, out, calls, reasons, **more):
        tell(name, same=same(out, expected), calls=calls, reasons=reasons, alive=kept["alive"], full=kept["full"], **more)

    tell_call("sparse", sparse, *call(contained))
    tell_call("dense", dense, *call(contained, **OUTSIDE))
    tell_call("masked text", dense, *call(lambda options: contained(options, mask=torch.ones(1, 1, TOKENS, TOKENS) > 0)))
    tell_call("by head", sparse.view(1, TOKENS, H, D).transpose(1, 2), *call(lambda o: contained(o, skip_output_reshape=True)))

    taken = []
    def int8(q, k, v, *args, **kwargs):
        # As the host's own: takes the tensors, and frees them when it is done with them.
        q, k, v = q.take(), k.take(), v.take()
        taken.append([x.untyped_storage().data_ptr() for x in (q, k, v)])
        references = [weakref.ref(x) for x in (q, k, v)]
        out = hosts.attention_pytorch(q, k, v, *args, **kwargs)
        del q, k, v
        kept["left"] = sum(x() is not None for x in references)
        return out
    with replaced.object(hosts.optimized_attention, "container_function", int8):
        tell_call("host's", dense, *call(contained, **OUTSIDE), taken=len(taken), left=kept["left"])

    given = []
    def takes_containers(func, *args, **kwargs):
        raise AssertionError("was called with tensors")
    takes_containers.container_function = lambda *args, **kwargs: given.append(type(args[0]).__name__) or int8(*args, **kwargs)
    tell_call("another's", dense, *call(contained, previous=takes_containers, **OUTSIDE), given=list(given), left=kept["left"])
    given.clear()
    def takes_tensors(func, q, *args, **kwargs):
        given.append(type(q).__name__)
        return func(q, *args, **kwargs)
    tell_call("tensors", dense, *call(contained, previous=takes_tensors, **OUTSIDE), given=list(given))

    given.clear()
    def doubles(func, q, k, v, heads, mask=None, skip_reshape=False, transformer_options=None, **kwargs):
        # Does not hand on what says that the call is inside an override.
        given.append(func.__name__)
        return 2 * func(q, k, v, heads, mask=mask, skip_reshape=skip_reshape, transformer_options=transformer_options)
    tell_call("once", 2 * dense, *call(contained, previous=doubles, **OUTSIDE), given=list(given))

    def fails(*args):
        raise RuntimeError("no kernel image")
    from sparse_videogen.svg_core import attention as core
    with replaced.object(core, "gather_attention", fails):
        tell_call("failed", dense, *call(contained))
"""

PREFERRED = """
from types import SimpleNamespace
wanted = []
def int8(q, *args, **kwargs):
    wanted.append(type(q).__name__)
    return hosts.optimized_attention(q, *args, **kwargs) * 2

class Attention(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.comfy_attention = SimpleNamespace(function=function)
    def forward(self, options):
        return plain(options)

def with_layer(function, **where):
    wanted.clear()
    layer = Attention(function)
    out, calls, _ = call(lambda options: layer(options), **where)
    return {"dense": same(out, dense), "doubled": same(out, dense * 2), "sparse": same(out, sparse), "wanted": len(wanted)}

chained = lambda func, *args, **kwargs: func(*args, **kwargs)
with replaced.object(host, "HAS_PREFERRED_ATTENTION", True):
    tell("sparse call", **with_layer(int8))
    tell("dense call", **with_layer(int8, **OUTSIDE))
    tell("none wanted", **with_layer(None, **OUTSIDE))
    tell("another's override", **with_layer(int8, previous=chained, **OUTSIDE))
    tell("host alone", **with_layer(int8, previous=chained, settings={"dense_attention": "host"}, **OUTSIDE))
with replaced.object(host, "HAS_PREFERRED_ATTENTION", False):
    tell("older host", **with_layer(int8, **OUTSIDE))

class Frees(Attention):
    def forward(self, options):
        q = torch.zeros(1)
        seen, out = weakref.ref(q), plain(options)
        del q
        self.freed = seen() is None
        return out

layer = Frees(int8)
with replaced.object(host, "HAS_PREFERRED_ATTENTION", True):
    def look(options):
        held, out = torch.zeros(1), layer(options)
        seen = weakref.ref(held)
        del held
        tell("freed", callers=seen() is None)
        return out
    call(look, **OUTSIDE)
"""

PAUSED = """
from contextlib import contextmanager
from types import SimpleNamespace
from torch.utils._python_dispatch import TorchDispatchMode
import sparse_videogen.nodes.attend as attend_module
from sparse_videogen.nodes import host

paused, made = [], {}
@contextmanager
def pause_malloc_graph():
    paused.append(1)
    try:
        yield
    finally:
        paused.pop()

class Watch(TorchDispatchMode):
    # Which tensors were made while the graph was paused, by where they lie.
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor):
                made[x.untyped_storage().data_ptr()] = bool(paused)
        return out

def tensors_in(value):
    if isinstance(value, torch.Tensor):
        yield value
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for part in parts or list(getattr(value, "__dict__", {}).values()):
        yield from tensors_in(part)

model, counts = load(), {"kept": 0, "paused": 0}
def watched(work):
    def watch(run, call):
        out = work(run, call)
        kept = list(tensors_in([run.on(call.q.device).state._values, vars(run.record)]))
        counts["kept"] += len(kept)
        counts["paused"] += sum(made.get(x.untyped_storage().data_ptr(), False) for x in kept)
        return out
    return watch
attend_module._sparse, attend_module._warm_up = watched(attend_module._sparse), watched(attend_module._warm_up)
plain = sample(patch(model, "SVG2", start_percent=0.3))
counts.update(kept=0, paused=0)
host._prefetch = SimpleNamespace(pause_malloc_graph=pause_malloc_graph)
with Watch():
    out = sample(patch(model, "SVG2", start_percent=0.3))
tell("state", same=bool(torch.equal(out, plain)), **counts, left=len(paused))
"""


@pytest.fixture(scope="module")
def containers(host, tmp_path_factory):
    told = run_in_host(host.path, LAYER + CONTAINERS, tmp_path_factory.mktemp("containers"))
    if not told:
        pytest.skip(f"ComfyUI {host.version} has no containers")
    return told


@pytest.mark.parametrize("name", ["sparse", "by head"])
def test_a_sparse_call_takes_tensors_out_of_their_containers(containers, name):
    told = containers[name]
    assert told["same"] and told["calls"] == 1 and told["alive"] == told["full"] == 0


@pytest.mark.parametrize("name", ["dense", "masked text", "host's", "another's", "tensors", "failed"])
def test_a_dense_call_leaves_them_to_who_computes_it(containers, name):
    told = containers[name]
    assert told["same"] and told["calls"] == 0 and len(told["reasons"]) == 1 and told["full"] == 0
    assert told["alive"] == told.get("left", 0) == 0  # nobody held on to what was taken


def test_another_override_gets_what_it_takes(containers):
    assert containers["host's"]["taken"] == 1
    assert containers["once"]["same"] and len(containers["once"]["given"]) == 1
    assert containers["once"]["given"][0] != "attention"  # the host's by its own name
    assert containers["another's"]["given"] == ["AttentionTensorContainer"] and containers["tensors"]["given"] == ["Tensor"]


@pytest.fixture(scope="module")
def preferred(host, tmp_path_factory):
    return run_in_host(host.path, LAYER + PREFERRED, tmp_path_factory.mktemp("preferred"))


@pytest.mark.parametrize(
    "name, result",
    [
        ("sparse call", "sparse"),
        ("dense call", "doubled"),
        ("none wanted", "dense"),
        ("another's override", "dense"),  # which comes before it in the host as well
        ("host alone", "doubled"),
        ("older host", "dense"),
    ],
)
def test_the_attention_of_a_checkpoint_computes_its_dense_calls(preferred, name, result):
    told = preferred[name]
    assert [which for which in ("dense", "doubled", "sparse") if told[which]] == [result]
    assert told["wanted"] == (result == "doubled")


def test_looking_for_it_keeps_nothing_of_other_functions_alive(preferred):
    assert preferred["freed"]["callers"]


def test_what_is_kept_is_made_while_the_hosts_allocation_graph_is_paused(host, tmp_path):
    told = run_in_host(host.path, PAUSED, tmp_path)["state"]
    assert told["same"] and told["kept"] == told["paused"] > 0 and told["left"] == 0
