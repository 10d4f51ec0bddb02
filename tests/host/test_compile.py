"""Beside torch.compile, as core's TorchCompileModel node sets it up: the model is cut at its attention, and only once.

With the backend "eager": what is traced, cut and guarded is the same, without minutes of code generation.
"""

from __future__ import annotations

import re

import pytest
from in_process import run_in_host

SCRIPT = """
import torch._dynamo
from torch._dynamo.utils import counters
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras import nodes_torch_compile

# Since it skips guards on transformer_options, what was compiled without our node is used with it.
skips = getattr(nodes_torch_compile, "skip_torch_compile_dict", None)
OPTIONS = {"guard_filter_fn": skips} if skips else None

def compiled(model, keys):
    model = model.clone()
    set_torch_compile_wrapper(model=model, backend="eager", keys=keys, options=OPTIONS)
    return model

model = load()
WHOLE, BLOCKS = ["diffusion_model"], [f"diffusion_model.blocks.{i}" for i in range(3)]
ORDERS = {
    "node, compile": lambda method: compiled(patch(model, method), WHOLE),
    "compile, node": lambda method: patch(compiled(model, WHOLE), method),
    "node, compile blocks": lambda method: compiled(patch(model, method), BLOCKS),
}
plain = sample(model)

import importlib
compiled_module = importlib.import_module("sparse_videogen.nodes.compiled")
thrown_away, forget, reset = [], compiled_module._forget, torch._dynamo.reset
compiled_module._forget = lambda model: (thrown_away.append("model"), forget(model))
torch._dynamo.reset = lambda: thrown_away.append("process")
compilations = []
def watched(graph, inputs):
    compilations.append(1)
    return graph.forward
another = torch.compile(lambda x: x * 2, backend=watched)

for name, keys in {"whole": WHOLE, "blocks": BLOCKS}.items():
    reset()
    another(torch.ones(3))
    thrown_away.clear()
    compilations.clear()
    bare = sample(compiled(model, keys))
    both = compiled(patch(model, "SVG2", start_percent=0.3), keys)
    late = sample(both)
    out = sample(both)
    other = sample(compiled(patch(model, "SVG"), keys))
    again = sample(compiled(model, keys))
    another(torch.ones(3))
    expected = [plain, sample(patch(model, "SVG2", start_percent=0.3)), sample(patch(model, "SVG")), plain]
    differences = [(a - b).abs().max().item() for a, b in zip((bare, out, other, again), expected)]
    more = {"thrown_away": thrown_away.copy(), "compilations": len(compilations), "late": late.isfinite().all().item()}
    tell(f"compiled before, {name}", differences=differences, skips=skips is not None, **more)

expected = sample(patch(model, "SVG2"))
for order, make in ORDERS.items():
    reset()
    counters.clear()
    frames = []
    said.clear()
    out = sample(make("SVG2"), callback=lambda *_: frames.append(sum(counters["frames"].values())))
    tell(order, frames=frames, difference=(out - expected).abs().max().item())

# A cache after the node leaves steps out, in which nothing of the model runs.
from comfy_extras.nodes_easycache import EasyCacheNode
reset()
cached = lambda model: EasyCacheNode.execute(model, 5.0, 0.0, 1.0, False).result[0]
for order, make in {
    "node, cache": lambda: compiled(cached(patch(model, "SVG2")), WHOLE),
    "cache, node": lambda: compiled(patch(cached(model), "SVG2"), WHOLE),
}.items():
    said.clear()
    thrown_away.clear()
    out = sample(make(), steps=10)
    tell(order, thrown_away=thrown_away.copy(), finite=out.isfinite().all().item())
"""


@pytest.fixture(scope="module")
def told(host, tmp_path_factory):
    return run_in_host(host.path, SCRIPT, tmp_path_factory.mktemp("compile"))


@pytest.mark.parametrize("order", ["node, compile", "compile, node", "node, compile blocks"])
def test_a_compiled_model_runs_sparse_and_is_compiled_in_the_first_step_alone(told, order):
    facts = told[order]
    assert facts["difference"] < 1e-4
    assert "8 of 12 calls sparse" in facts["said"][-1]
    assert facts["frames"][0] > 0 and len(set(facts["frames"])) == 1


@pytest.mark.parametrize("part", ["whole", "blocks"])
def test_a_model_that_was_compiled_without_the_node_is_compiled_anew_and_serves_both(told, part):
    facts = told[f"compiled before, {part}"]
    assert max(facts["differences"]) < 1e-4 and facts["late"]
    first, second, *_ = re.findall(r": ((?:\d+ of|All) \d+ calls)", "\n".join(facts["said"]))
    assert second == "4 of 12 calls"
    told_so = sum("not_reached: torch.compile had compiled this model without the node" in x for x in facts["said"])
    assert told_so == (first != second), facts["said"]
    # Nothing but the model is, and once; what else the process had compiled stays.
    assert facts["thrown_away"] == ["model"] * told_so and facts["compilations"] == 0
    if part == "whole":  # the first that the process compiled
        assert told_so == facts["skips"]


@pytest.mark.parametrize("order", ["node, cache", "cache, node"])
def test_a_step_that_a_cache_leaves_out_is_no_forward(told, order):
    facts = told[order]
    assert facts["finite"] and facts["thrown_away"] == []
    assert not any("not_reached" in line for line in facts["said"])
    sparse, calls = map(int, re.search(r"(\d+) of (\d+) calls sparse", facts["said"][-1]).groups())
    assert 0 < sparse < calls < 3 * 10  # steps were left out
