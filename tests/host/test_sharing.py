"""A prompt and a negative prompt share their clusters as the host batches them, and the density falls over its schedule."""

from __future__ import annotations

import pytest
from in_process import run_in_host

RUNS = """
from unittest.mock import patch as replaced
import sparse_videogen.nodes.attend as attend_module
import sparse_videogen.nodes.run as run_module

model, attention = load(), attend_module.sparse_attention

def conditioning(seed, length=12, **more):
    values = torch.randn(1, length, 4096, generator=torch.Generator().manual_seed(seed))
    return [[values, {"pooled_output": None, **more}]]

def watch(name, positive=None, negative=None, cfg=5.0, steps=4, parts=({},), **settings):
    # One sampler or several that share a schedule, and what each sparse call was told of its sharing.
    calls, latent = [], torch.zeros(1, 16, 5, 16, 24)
    def seen(q, k, v, **options):
        out, stats = attention(q, k, v, **options)
        calls.append({
            "batch": len(q), "conditionings": options.get("conditionings", 1), "turn": options.get("turn"),
            "key": repr(options["shared_key"]) if "shared_key" in options else None,
            "alike": None if stats.alike is None else stats.alike.mean().item(), "density": options["config"].density,
        })
        return out, stats
    with replaced.object(attend_module, "sparse_attention", seen), torch.inference_mode():
        for part in parts:
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
            inputs = positive or conditioning(1), negative or conditioning(2), latent
            patched = patch(model, "SVG2", **settings)
            latent = comfy.sample.sample(patched, noise, steps, cfg, "euler", "simple", *inputs, **part)
    tell(name, calls=calls, finite=bool(latent.isfinite().all()))

watch("together")
watch("apart", negative=conditioning(2, length=20))
watch("no guidance", cfg=1.0)
watch("two prompts", positive=conditioning(1) + conditioning(3))
with replaced.object(run_module, "ALIKE", 2.0):
    watch("unlike")
watch("more steps", steps=10)
first, second = {"last_step": 4, "force_full_denoise": False}, {"start_step": 4, "disable_noise": True}
watch("two samplers", steps=10, parts=(first, second))
watch("later start", steps=10, start_percent=0.3)
"""


@pytest.fixture(scope="module")
def runs(host, tmp_path_factory):
    return run_in_host(host.path, RUNS, tmp_path_factory.mktemp("sharing"))


def densities(told) -> list[float]:
    """Of the steps, in order."""
    return list(dict.fromkeys(call["density"] for call in told["calls"]))


def test_one_batch_has_one_plan(runs):
    calls = runs["together"]["calls"]
    assert runs["together"]["finite"] and len(calls) == 4 * (len(calls) // 4) > 0
    assert {(call["batch"], call["conditionings"]) for call in calls} == {(2, 2)}
    assert sorted({call["turn"] for call in calls}) == [1, 2, 3, 4]
    assert all(call["alike"] > 0.5 for call in calls)
    assert any("alike" in said for said in runs["together"]["said"])


def test_two_calls_of_a_turn_share_their_clusters(runs):
    """The conditionings differ in length, so the host runs them one by one."""
    calls = runs["apart"]["calls"]
    assert {(call["batch"], call["conditionings"]) for call in calls} == {(1, 1)}
    for call in calls:
        turn = [other for other in calls if (other["key"], other["turn"]) == (call["key"], call["turn"])]
        assert len(turn) == 2 and call["key"] is not None
        assert [other["alike"] is None for other in turn] == [True, False]  # the second is compared with the first


@pytest.mark.parametrize("name", ["no guidance", "two prompts"])
def test_who_has_no_partner_plans_alone(runs, name):
    calls = runs[name]["calls"]
    assert calls and all(call["key"] is None and call["alike"] is None and call["conditionings"] == 1 for call in calls)


def test_conditionings_that_are_not_alike_part_after_the_first_step(runs):
    calls = runs["unlike"]["calls"]
    assert {call["key"] is None for call in calls if call["turn"] == 1} == {False}
    assert {call["key"] for call in calls if call["turn"] != 1} == {None}
    assert sum("are not alike: they are planned apart" in said for said in runs["unlike"]["said"]) == 1


def test_the_density_falls_over_the_schedule(runs):
    found = densities(runs["more steps"])
    assert len(found) == 10 and found == sorted(found, reverse=True)
    assert sum(found) / 10 == pytest.approx(0.4, abs=1e-3) and found[0] > 0.55 and found[-1] < 0.25


def test_two_samplers_that_share_a_schedule_fall_as_one(runs):
    assert densities(runs["two samplers"]) == pytest.approx(densities(runs["more steps"]), abs=2e-3)


def test_dense_steps_leave_the_mean_of_the_others(runs):
    found = densities(runs["later start"])
    assert len(found) == 7 and sum(found) / 7 == pytest.approx(0.4, abs=2e-3)
