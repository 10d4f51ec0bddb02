"""Two processes that share a video's tokens out through raylight's own forwards, on the CPU: as one process, or stay dense."""

from __future__ import annotations

import pytest
from ranks import missing, run_on_ranks
from tiny_checkpoints import families_for

EVEN, PADDED = {}, {"width": 176, "height": 112}  # 5 x 8 x 12 tokens; 5 x 7 x 11, of which two GPUs have unequal parts
SPARSE = """
for family, sizes in FAMILIES.items():
    for options in sizes:
        alone_dense, shared_dense = render(load(family), family, **options), render(load_shared(family), family, **options)
        tell(f"{family}, raylight's", far=far(shared_dense, alone_dense))
        for method in NODES:
            one = render(alone(family, method), family, **options)
            model = begin(load_shared(family), method)
            two, told = render(model, family, **options), figures(model)
            same = on_every_rank(two)
            end(model)
            off = torch.equal(render(model, family, **options), shared_dense)
            told["report"].pop("settings")
            found = {"far": far(two, one), "changed": far(one, alone_dense), "same": same, "off": off, **told}
            tell(f"{family}, {method}, {options}", **found)
    model = begin(load_shared(family), "SVG2", start_percent=0.99)
    tell(f"{family}, all dense", far=far(render(model, family, **options), alone_dense), **figures(model))
"""
FAMILIES = {
    "wan21_t2v": [EVEN, PADDED],
    "wan21_i2v": [PADDED],
    "wan22_5b": [EVEN],
    "wan_vace": [PADDED],
    "wan_fun_control": [PADDED],  # a reference image before the video
    "wan_phantom": [PADDED],  # two after it
    "wan_bernini": [PADDED],  # a video to edit after it
    "wan_animate": [PADDED],
    "wan_scail": [PADDED],  # poses after it
    "wan_scail2": [PADDED],
    "hunyuan_t2v": [EVEN, PADDED],
    "hunyuan_i2v": [PADDED],
    "hunyuan_custom": [PADDED],  # with a reference image
    "hunyuan15": [PADDED],  # with an image and with what is written in it
}


@pytest.fixture
def ranks(host, tmp_path):
    """Runs a script on each rank."""
    reason = missing(host.path)
    if reason is not None:
        pytest.skip(reason)
    return lambda script, **options: run_on_ranks(host.path, script, tmp_path, **options)


def test_two_gpus_render_what_one_renders(host, ranks):
    """Within rounding, also where raylight's own result is not that of one GPU, since it attends to its padding.

    Rounding may turn a choice between things that are nearly as good: then a render is nearer to the other than sparsity is to
    dense, and no more than that.
    """
    families = {name: sizes for name, sizes in FAMILIES.items() if name in families_for(host.version)}
    facts = ranks(f"FAMILIES = {families!r}\n{SPARSE}", families=families)
    sparse = {name: fact for name, fact in facts.items() if "changed" in fact}
    assert len(sparse) == 2 * sum(map(len, families.values()))
    for name, fact in sparse.items():
        assert fact["same"] and fact["off"] and fact["changed"] > 0.01, name
        assert fact["far"] < 0.3 * fact["changed"], name
        assert fact["report"]["sparse_calls"] > 0 and set(fact["report"]["dense_reasons"]) == {"dense_blocks"}, name
        assert fact["lines"] == [], name
    assert sorted(fact["far"] for fact in sparse.values())[len(sparse) // 2] < 1e-5
    for family in families:
        fact = facts[f"{family}, all dense"]
        assert fact["far"] < 1e-5, family
        assert set(fact["report"]["dense_reasons"]) == {"start_percent", "dense_blocks"}, family


FAULTS = """
from contextlib import ExitStack
from unittest.mock import patch as replaced
import sparse_videogen.nodes.attend as attend_module
import sparse_videogen.nodes.forward as forward_module
import sparse_videogen.nodes.overrides as overrides
import sparse_videogen.nodes.patch as patch_module
import sparse_videogen.nodes.sequence_parallel as seam
from sparse_videogen.svg_core import attention

def raises(error):
    def broken(*args, **kwargs):
        raise error
    return broken

# What comes out if the second head, which is rank 1's, is computed in full; the node leaves block 0 dense.
attend = overrides.attend
def with_one_dense(run, call, reason):
    out = attend(run, call, reason)
    out[:, 1:] = torch.nn.functional.scaled_dot_product_attention(call.q[:, 1:], call.k[:, 1:], call.v[:, 1:])
    return out
with replaced.object(overrides, "attend", with_one_dense):
    expected = render(alone("wan21_t2v", "SVG"))
both_sparse = render(alone("wan21_t2v", "SVG"))
no_memory = torch.cuda.OutOfMemoryError("tried to allocate 9 GiB")
BROKEN = {
    "the kernel": (attention, "gather_attention", raises(RuntimeError("no kernel image"))),
    "memory": (attention, "gather_attention", raises(no_memory)),
    "the layout": (seam, "wan_shards", raises(KeyError("a layout"))),
    "the call": (forward_module.Forward, "known_call", raises(ValueError("a call"))),
    "the forward": (patch_module, "Forward", raises(IndexError("a forward"))),
    "raylight": (seam, "BLOCKS", {}.fromkeys(seam.BLOCKS, "raylight.of_another_kind")),
    "the node": None,
}
for name, broken in BROKEN.items():
    model = load_shared()
    if broken is not None or rank == 0:
        begin(model, "SVG")
    with ExitStack() as stack:
        if rank == 1 and broken is not None:
            stack.enter_context(replaced.object(*broken))
        out = render(model)
    told = figures(model) if broken is not None or rank == 0 else None
    everyones = [None] * ranks
    dist.all_gather_object(everyones, told and [told["report"]["sparse_calls"], told["report"]["dense_reasons"]])
    found = {"far": far(out, expected), "same": on_every_rank(out), "counts": everyones}
    tell(name, sparse=far(both_sparse, expected), **found)
"""


def test_one_gpu_that_fails_alone_computes_its_heads_in_full(ranks):
    """None waits for another for ever, whatever goes wrong on one, and even if the node is missing there."""
    facts = ranks(FAULTS, timeout_s=200)
    assert len(facts) == 7
    for name, fact in facts.items():
        assert fact["same"] and fact["far"] < 1e-5 < 0.01 < fact["sparse"], name
        first, second = fact["counts"]
        assert first == [6, {"dense_blocks": 3}], name
        if second is not None:
            label = "out_of_memory" if name == "memory" else "error"
            assert second[0] == 0 and label in second[1], name
    assert facts["the node"]["counts"][1] is None


DEGREES_SCRIPT = """
shared = load_shared() if degrees.get("ulysses_degree", ranks) * degrees.get("ring_degree", 1) > 1 else load()
if degrees.get("cfg_degree", 1) > 1:
    from raylight.distributed_modules.cfg import CFGParallelInjectRegistry
    wrapper = CFGParallelInjectRegistry.inject(shared)
    shared.add_wrapper(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, wrapper)
before = render(shared)
from comfy.model_patcher import ModelPatcher
free_memory = ModelPatcher.get_free_memory
for method in NODES:
    model = begin(shared, method)
    if degrees.get("cfg_degree", 1) > 1:  # raylight cannot do with a batch for each conditioning
        ModelPatcher.get_free_memory = lambda self, device: 0
    out, told = render(model), figures(model)
    end(model)
    ModelPatcher.get_free_memory = free_memory
    one = render(alone("wan21_t2v", method))
    found = {"far": far(out, one), "unchanged": torch.equal(out, before), "changed": far(one, before)}
    tell(method, **found, reasons=told["report"]["dense_reasons"], lines=told["lines"])
"""


@pytest.mark.parametrize(
    "degrees, told",
    [
        ({"ring_degree": 2}, "set ring_degree to 1 and ulysses_degree to 2"),
        ({"pp_degree": 2}, "PipeFusion computes a video in pieces"),
    ],
    ids=["ring", "pipefusion"],
)
def test_what_gives_no_gpu_all_keys_stays_dense_and_says_why_once(ranks, degrees, told):
    facts = ranks(DEGREES_SCRIPT, degrees={"ulysses_degree": 1, **degrees})
    assert len(facts) == 2
    for fact in facts.values():
        assert fact["unchanged"] and fact["reasons"] == {"multi_gpu": 3}  # one a step
        ((_, line),) = fact["lines"]
        assert told in line


@pytest.mark.parametrize("ulysses", [1, 2])
def test_conditionings_that_have_gpus_of_their_own_run_sparse(ranks, ulysses):
    """cfg_degree 2, however little memory is free: with one GPU each the attention is the host's own, over all heads."""
    facts = ranks(DEGREES_SCRIPT, ranks=2 * ulysses, degrees={"ulysses_degree": ulysses, "cfg_degree": 2})
    for method, fact in facts.items():
        assert fact["reasons"] == {"dense_blocks": 3} and not fact["unchanged"], method
        # SVG2's clusters are not shared, as they are in one batch: another choice, as far from dense.
        assert fact["far"] < (1e-5 if method == "SVG" else 1.5 * fact["changed"]), method


def test_a_model_that_raylight_shares_out_in_another_way_stays_dense(ranks):
    script = """
model = begin(load_shared("kandinsky5"), "SVG2")
out, told = render(model, "kandinsky5"), figures(model)
end(model)
tell("kandinsky5", unchanged=torch.equal(out, render(model, "kandinsky5")), **told)
"""
    fact = ranks(script, families=["kandinsky5"])["kandinsky5"]
    assert fact["unchanged"] and fact["report"]["dense_reasons"] == {"multi_gpu": 3}
    ((_, line),) = fact["lines"]
    assert "raylight shares out the tokens of Kandinsky5 in a way that this node does not know" in line


def test_a_text_as_long_as_a_gpus_part_is_told_apart(ranks):
    script = """
one = render(alone("wan21_t2v", "SVG"), text_tokens=240)
model = begin(load_shared(), "SVG")
tell("as long", far=far(render(model, text_tokens=240), one), **figures(model))
"""
    fact = ranks(script)["as long"]
    assert fact["far"] < 1e-5 and fact["report"]["sparse_calls"] == 6 and fact["report"]["calls"] == 9


def test_memory_is_estimated_for_a_gpus_share_of_the_heads(ranks):
    script = """
import sparse_videogen.nodes.patch as patch_module
estimates = []
run_bytes = patch_module.run_bytes
patch_module.run_bytes = lambda *args: estimates.append(run_bytes(*args)) or estimates[-1]
render(alone("wan21_t2v", "SVG2"))
model = begin(load_shared(), "SVG2")
render(model)
tell("estimates", states=[one.state for one in estimates], calls=[list(one.calls) for one in estimates])
"""
    fact = ranks(script)["estimates"]
    (whole, half), (calls, share) = fact["states"], fact["calls"]
    assert half == pytest.approx(whole / 2, rel=0.1) and all(a > b for a, b in zip(calls, share, strict=True))
