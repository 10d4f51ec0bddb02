"""Whether a model's passes come by, and when compiled code is thrown away; needs no host."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest
import torch
from sparse_videogen.nodes import compiled, sightings
from sparse_videogen.nodes.families import FAMILIES
from sparse_videogen.nodes.sightings import IN_PARTS, NOT_REACHED, STALE, Sightings

WAN = next(family for family in FAMILIES if family.name == "Wan")


@pytest.fixture
def thrown_away(monkeypatch):
    """Models whose code was thrown away, by a `CompiledCode` of the test's own."""
    models = []
    monkeypatch.setattr(compiled, "_forget", models.append)
    monkeypatch.setattr(sightings, "code", compiled.CompiledCode())
    return models


def one_pass(seen: Sightings, model, calls: int | None, *, compiled=False, grid=True, **options) -> str | None:
    """A pass with so many attention calls; None: the node's wrapper was not reached."""
    seen.forget()
    with sightings.code.in_use():
        if calls is not None:
            layers = SimpleNamespace(blocks=[None] * 3)
            seen.put(SimpleNamespace(calls=calls, grid=grid or None, family=WAN, diffusion_model=layers))
        return seen.look(model, options, compiled)


def test_a_pass_that_a_cache_leaves_out_is_not_missed(thrown_away):
    seen, model = Sightings(), torch.nn.Identity()
    assert [one_pass(seen, model, calls) for calls in (3, 0, None, 3)] == [None] * 4
    assert [one_pass(seen, torch.nn.Identity(), 3, compiled=True), one_pass(seen, model, 0, compiled=True)] == [None] * 2
    assert thrown_away == []


def test_a_model_that_never_comes_by_is_said_at_every_pass():
    assert [one_pass(seen, model, 0) for seen, model in [(Sightings(), torch.nn.Identity())] * 2] == [NOT_REACHED] * 2
    assert one_pass(Sightings(), torch.nn.Identity(), 0, grid=False) is None  # no video: nothing to see
    assert one_pass(Sightings(), torch.nn.Identity(), None, compiled=True, ar_state={}) == IN_PARTS


def test_a_compiled_model_is_compiled_again_once_and_not_again_if_that_was_in_vain(thrown_away):
    model, another = torch.nn.Identity(), torch.nn.Identity()
    seen = Sightings()
    assert [one_pass(seen, model, 0, compiled=True) for _ in range(3)] == [STALE, NOT_REACHED, NOT_REACHED]
    assert one_pass(Sightings(), model, 0, compiled=True) == NOT_REACHED and thrown_away == [model]
    helped = Sightings()
    assert [one_pass(helped, another, calls, compiled=True) for calls in (2, 3, 0)] == [STALE, None, None]  # of 3 layers
    assert one_pass(Sightings(), another, 0, compiled=True) == STALE and thrown_away == [model, another, another]


def test_code_is_thrown_away_when_no_thread_is_in_a_pass(thrown_away):
    code, model = sightings.code, torch.nn.Identity()
    inside, leave = threading.Event(), threading.Event()

    def another_thread():
        with code.in_use():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=another_thread)
    thread.start()
    inside.wait(10)
    assert one_pass(Sightings(), model, 0, compiled=True) == STALE and thrown_away == []
    leave.set()
    thread.join()
    assert thrown_away == [model]


def test_what_cannot_be_thrown_away_costs_no_render(caplog, monkeypatch):
    monkeypatch.setattr(compiled, "_functions", lambda model: 1 / 0)
    code = compiled.CompiledCode()
    for _ in range(2):
        with code.in_use():
            pass
        with code.in_use():
            code.throw_away(torch.nn.Identity())
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and all("what torch.compile made of Identity could not be discarded" in line for line in lines)
