"""Which values stay on their device, and which wait in host memory and come one call ahead."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from sparse_videogen.svg_core import SparseState
from sparse_videogen.svg_core.pinned import PinnedMemory, tensor_bytes


@dataclass(frozen=True)
class Value:
    mean: torch.Tensor
    labels: torch.Tensor | None
    calls: int


class Host(dict):
    """Host memory that keeps a diary of what is brought when."""

    def __init__(self):
        super().__init__()
        self.diary = []

    def serves(self, value):
        return True

    def put(self, key, value):
        self[key] = value

    def pop(self, key):
        super().pop(key, None)

    def prefetch(self, key):
        if key in self:
            self.diary.append(f"fetch {key}")

    def get(self, key):
        self.diary.append(f"get {key}") if key in self else None
        return super().get(key)


def value(calls=0, floats=100):
    return Value(torch.full((floats,), float(calls)), None, calls)


def run_steps(state, keys, steps):
    for step in range(steps):
        for key in keys:
            last = state.get(key)
            assert (last is None) if step == 0 else (last.calls == step - 1 and (last.mean == step - 1).all())
            state.put(key, value(step))


def test_bytes_of_a_value():
    assert tensor_bytes(Value(torch.zeros(3, 5, dtype=torch.bfloat16), torch.zeros(7, dtype=torch.int16), 1)) == 44


@pytest.mark.parametrize("budget, away", [(None, 0), (4000, 0), (1200, 7), (0, 10)])
def test_what_finds_room_stays(budget, away):
    host = Host()
    state = SparseState(budget, host)
    run_steps(state, range(10), 3)
    assert len(host) == away and len(state) == 10
    assert sum(entry.startswith("get") for entry in host.diary) == 2 * away


@pytest.mark.parametrize(
    "budget, told",
    [(400, "fetch b, get b, fetch c, get c"), (0, "get a, fetch b, get b, fetch c, get c, fetch a")],
    ids=["one stays", "none stays"],
)
def test_a_value_is_fetched_in_the_call_before_its_own_and_for_the_next_step_in_the_last(budget, told):
    host = Host()
    state = SparseState(budget, host)
    run_steps(state, "abc", 2)
    host.diary.clear()
    assert [state.get(key).calls for key in "abc"] == [1, 1, 1]
    assert host.diary == told.split(", ")


def test_a_value_that_grew_moves_and_one_that_shrank_comes_back():
    host = Host()
    state = SparseState(500, host)
    for floats, away in ((100, 0), (200, 1), (50, 0)):
        state.put("a", value(floats=floats))
        assert len(host) == away and len(state) == 1


def test_what_is_made_once_stays_and_is_no_call_in_the_order():
    host, made = Host(), []
    state = SparseState(0, host)
    for step in range(2):
        for key in "ab":
            state.get(key)
            state.once("patterns", lambda: made.append(value()) or made[0])
            state.put(key, value(step))
    assert len(made) == 1 and state.once("patterns", None) is made[0] and len(host) == 2
    assert host.diary == ["get a", "fetch b", "get b", "fetch a"]


def test_nothing_moves_from_a_device_that_is_the_host():
    state = SparseState(0)
    state.put("a", value())
    assert not PinnedMemory().serves(value()) and state.get("a") is not None


def test_clear_frees_both():
    host = Host()
    state = SparseState(800, host)
    run_steps(state, range(5), 1)
    state.clear()
    assert len(state) == len(host) == 0
    run_steps(state, range(5), 2)
