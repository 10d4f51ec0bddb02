"""What is known of each family."""

from __future__ import annotations

from types import SimpleNamespace

from bare_models import model
from sparse_videogen.nodes.families import OTHER, family_of, layer_of, layers


def test_the_most_special_family_wins():
    assert family_of(model("VaceWanModel", base="WanModel")).name == "Wan"
    assert family_of(model("HumoWanModel", base="WanModel")).name == "Wan HuMo"


def test_an_unknown_model_that_cuts_videos_into_patches_is_other():
    assert family_of(model("Kandinsky")) is OTHER
    assert family_of(model("Flux", patch=2)) is None
    assert family_of(model("Flux", patch=None)) is None


def test_layers_and_heads_are_read_from_the_model():
    made = model("WanModel", blocks=[None] * 40, num_heads=40, dim=5120)
    assert layers(family_of(made), made) == 40 and family_of(made).heads(made) == (40, 128)
    assert layers(OTHER, model("Kandinsky")) == 0
    attention = SimpleNamespace(heads=32, dim_head=128)
    made = model("LTXAVModel", None, base="LTXVModel", transformer_blocks=[SimpleNamespace(attn1=attention)] * 48)
    assert layers(family_of(made), made) == 48 and family_of(made).heads(made) == (32, 128)


def test_the_layers_of_a_model_that_does_not_number_them_are_counted():
    family = family_of(model("WanModel"))
    assert [layer_of(family, None, {}, calls) for calls in range(3)] == [0, 1, 2]
    # Spatio-temporal guidance leaves the attention of some out.
    left_out = {"stg_self_attn_blocks": frozenset({0, 3})}
    assert [layer_of(family, None, left_out, calls) for calls in range(3)] == [1, 2, 4]
