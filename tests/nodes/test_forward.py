"""Which calls of a forward are the video's, and what tells them apart; needs no host."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import torch
from sparse_videogen.nodes.families import FAMILIES
from sparse_videogen.nodes.forward import Call, Forward
from sparse_videogen.nodes.run import Run
from sparse_videogen.nodes.settings import Settings, parse_blocks
from sparse_videogen.svg_core import SVGConfig, VideoLayout

WAN, HUNYUAN, _ = FAMILIES


class Model(torch.nn.Module):
    """A model's shell: what a forward reads of it."""

    patch_size = (1, 2, 2)
    double_blocks = [None] * 20


def make_forward(family=WAN, uuids=("cond",), window=None, **settings):
    settings = Settings(SVGConfig(), min_tokens=0, **settings)
    options = {"sigmas": torch.tensor([0.5]), "uuids": list(uuids)}
    if window is not None:
        options["context_window"] = SimpleNamespace(index_list=window)
    arguments = {"x": torch.zeros(1, 16, 3, 8, 10), "transformer_options": options}
    return Forward(Run(settings, 1.0, 0.0), family, Model(), arguments)


def make_call(tokens=60, keys=None, heads=2, mask=None, **options):
    q = torch.zeros(1, tokens, heads * 128)
    k = torch.zeros(1, keys or tokens, heads * 128)
    return Call.read(q, k, k, heads, mask=mask, transformer_options=options)


def test_reads_both_shapes_of_the_hosts_call():
    flat = make_call()
    by_head = Call.read(*[torch.zeros(1, 2, 60, 128)] * 3, 2, skip_reshape=True, skip_output_reshape=True)
    assert flat.q.shape == by_head.q.shape == (1, 2, 60, 128)
    assert flat.result(flat.q).shape == (1, 60, 256) and by_head.result(by_head.q).shape == (1, 2, 60, 128)


@pytest.mark.parametrize("tokens, keys, mine", [(60, 60, True), (77, 77, True), (60, 12, False), (12, 12, False)])
def test_only_self_attention_over_the_video_counts(tokens, keys, mine):
    assert make_forward().is_video_attention(make_call(tokens, keys)) is mine


def keys_of(forward, *options):
    return [forward.place(make_call(**each)) for each in options]


def test_layers_are_counted_where_the_host_does_not_tell():
    assert [layer for layer, _ in keys_of(make_forward(), {}, {}, {})] == [0, 1, 2]


def test_single_blocks_come_after_double_blocks():
    double, single = {"block_index": 3, "block_type": "double"}, {"block_index": 3, "block_type": "single"}
    assert [layer for layer, _ in keys_of(make_forward(HUNYUAN), double, single)] == [3, 23]


def test_a_block_index_that_repeats_is_another_call():
    """VACE's own blocks carry the index of the main block that they belong to."""
    places = keys_of(make_forward(), {"block_index": 0}, {"block_index": 0}, {"block_index": 1})
    assert len({key for _, key in places}) == 3 and [layer for layer, _ in places] == [0, 0, 1]


def test_what_must_not_share_state_has_a_key_of_its_own():
    forwards = [
        make_forward(uuids=("cond",)),
        make_forward(uuids=("uncond",)),
        make_forward(uuids=("uncond", "cond")),
        make_forward(window=[0, 1]),
        make_forward(window=[1, 2]),
    ]
    keys = [forward.place(make_call())[1] for forward in forwards]
    assert len(set(keys)) == len(keys)
    assert make_forward(uuids=("cond",)).place(make_call())[1] == keys[0]  # and the next step finds it again


def reason(call, layer=5, **settings):
    forward = make_forward(**settings)
    return forward.dense_reason(call, layer, forward.layout(call))


def test_reasons_to_stay_dense():
    assert reason(make_call()) is None
    assert reason(make_call(tokens=61)).startswith("layout: 61 tokens")
    assert reason(make_call(mask=torch.zeros(1, 1, 60))).startswith("mask: an attention mask (1, 1, 60)")
    assert reason(make_call(), dense_blocks=parse_blocks("5")) == "dense_blocks: 5"
    narrow = Call.read(*[torch.zeros(1, 60, 64)] * 3, 2)
    assert reason(narrow).startswith("head_dim: 32")


@pytest.mark.parametrize("backend, dense", [("auto", True), ("torch", False)])
def test_a_gpu_without_triton_stays_dense_unless_torch_is_asked_for(monkeypatch, backend, dense):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    gpu = SimpleNamespace(shape=(1, 2, 60, 128), device=SimpleNamespace(type="cuda"))
    call = Call(gpu, gpu, gpu, None, None, False, {})
    forward = make_forward(backend=backend)
    found = forward.dense_reason(call, 5, forward.grid)
    assert found.startswith("backend: Triton is not installed; run 'pip install triton'") if dense else found is None


def test_the_hosts_own_grid_is_trusted():
    forward, call = make_forward(), make_call(tokens=80, grid_sizes=(4, 4, 5))
    assert forward.layout(call) == VideoLayout(4, 4, 5)
