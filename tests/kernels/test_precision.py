"""Which precision runs where, and what is said where another was wanted."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.kernels import PRECISIONS, nearest_precision, tile_configs
from sparse_videogen.kernels import backend as backends
from sparse_videogen.kernels import precision as precisions
from sparse_videogen.kernels.tile_configs import TileConfig, config_for, table

# What runs where "8 bit" is wanted, by architecture.
RUNS = {
    "8.0": "int8", "8.6": "int8", "8.7": "int8", "8.9": "8 bit", "9.0": "8 bit", "10.0": "8 bit", "10.3": "8 bit",
    "12.0": "8 bit", "12.1": "8 bit", "gfx942": "int8", "gfx1100": "16 bit",
}  # fmt: skip


@pytest.fixture
def card(monkeypatch):
    """card(architecture): a GPU of it seems to be here, with a Triton that has all products, and is returned."""

    def seem(architecture):
        for module in (backends, tile_configs, precisions):
            monkeypatch.setattr(module, "architecture", lambda device: architecture)
        monkeypatch.setattr(tile_configs, "triton_version", lambda: (3, 6))
        monkeypatch.setattr(tile_configs, "config_for", tile_configs.config_for.__wrapped__)
        return torch.device("cuda")

    return seem


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("architecture, runs", RUNS.items())
def test_the_nearest_finer_one_runs_and_why_is_said(architecture, runs, head_dim, card):
    device = card(architecture)
    for wanted in PRECISIONS:
        precision, reason = nearest_precision(wanted, head_dim, device, torch.bfloat16, "triton")
        assert precision == min(wanted, runs, key=PRECISIONS.index)
        assert (reason is None) == (precision == wanted)
        if reason is not None:
            assert reason.startswith(f"precision {wanted!r} cannot run: it needs ")
            assert reason.endswith(f"this GPU's architecture is {architecture}; {precision!r} runs in its place")


def test_an_older_triton_has_fewer(card, monkeypatch):
    device = card("12.0")
    monkeypatch.setattr(tile_configs, "triton_version", lambda: (3, 3))
    precision, reason = nearest_precision("8 bit", 128, device, torch.float16, "triton")
    assert precision == "int8" and "Triton 3.6 or newer" in reason


def test_float32_stays_what_it_is(card):
    precision, reason = nearest_precision("int8", 128, card("9.0"), torch.float32, "triton")
    assert precision == "16 bit" and "this one is in float32" in reason


@pytest.mark.parametrize("wanted", PRECISIONS)
def test_torch_has_them_all(wanted):
    assert nearest_precision(wanted, 64, torch.device("cpu"), torch.float32, "torch") == (wanted, None)


def test_a_kernel_that_failed_is_not_tried_again_and_the_finer_one_runs(card, monkeypatch):
    device = card("9.0")
    monkeypatch.setattr(backends, "_failures", {"gather_attention (9.0, bfloat16, 8 bit)": "RuntimeError: no ptxas"})
    precision, reason = nearest_precision("8 bit", 128, device, torch.bfloat16, "triton")
    assert precision == "int8" and "failed before (RuntimeError: no ptxas)" in reason
    assert nearest_precision("int8", 128, device, torch.bfloat16, "triton") == ("int8", None)
    assert nearest_precision("8 bit", 128, device, torch.float16, "triton") == ("8 bit", None)
    monkeypatch.setattr(backends, "_failures", {})


def test_an_unknown_one_is_refused():
    with pytest.raises(ValueError, match="precision='4 bit': must be one of 16 bit, int8, 8 bit"):
        nearest_precision("4 bit", 64, torch.device("cpu"), torch.float16, "torch")


def test_tiles_have_one_height_in_all_precisions():
    """A plan is made before its precision matters, and its text runs in 16 bit; whichever config this Triton takes."""
    seen = 0
    for arch, entry in table()["gather_attention"].items():
        for key, choices in entry.items():
            if key.endswith(PRECISIONS[1:]):
                own = config_for("gather_attention", int(key.split("-")[0]), arch)
                for choice in [choices] if isinstance(choices, dict) else choices or []:
                    few = TileConfig(**{name: value for name, value in choice.items() if name != "min_triton"})
                    assert few.block_m == own.block_m and (few.values == "float8_e4m3fn") == key.endswith("8 bit")
                    seen += 1
    assert seen > 20
