"""Which conditionings share their planning, and what a run makes of it."""

from __future__ import annotations

import pytest
import torch
from sparse_videogen.nodes.pairing import ALIKE, Turn
from sparse_videogen.nodes.run import Run
from sparse_videogen.nodes.settings import Settings
from sparse_videogen.svg_core import AttentionStats, SVG2Config

PROMPT, NEGATIVE = {"uuid": "a"}, {"uuid": "b"}


@pytest.mark.parametrize(
    "conds, ids, paired",
    [
        ([[PROMPT], [NEGATIVE]], ("b", "a"), True),
        ([[PROMPT], [NEGATIVE]], ("a",), True),
        ([[PROMPT], [NEGATIVE]], ("c",), False),
        ([[PROMPT], [NEGATIVE]], ("a", "a"), False),
        ([[PROMPT], [NEGATIVE]], (), False),
        ([[PROMPT], None], ("a",), False),
        ([[PROMPT]], ("a",), False),
        ([[PROMPT], []], ("a",), False),
        ([[PROMPT, {"uuid": "c"}], [NEGATIVE]], ("a",), False),
        ([[PROMPT], [NEGATIVE], [{"uuid": "c"}]], ("a", "b"), False),
        ([[PROMPT], [PROMPT]], ("a",), False),
    ],
    ids=["batch", "one", "another", "twice", "none", "cfg-1", "alone", "empty", "areas", "three", "same"],
)
def test_a_pair_is_one_prompt_and_one_negative(conds, ids, paired):
    turn = Turn().next(conds)
    assert turn.number == 1 and turn.has(ids) is paired
    assert turn.next([[PROMPT]]).number == 2


def make_run(**settings):
    sigmas = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    run = Run(Settings(SVG2Config(density=0.2), start_percent=0.0, **settings), 1e9, -1e9, progress=lambda sigma: 1 - sigma)
    return run, sigmas


def test_the_density_of_a_step_follows_its_sigma():
    """Also where a cache leaves steps out, and in between two steps."""
    run, sigmas = make_run()
    found = []
    for sigma in (1.0, 0.5, 0.4, 0.25):
        run.begin_forward({"sigmas": torch.tensor([sigma]), "sample_sigmas": sigmas})
        found.append(run.config.density)
    assert found == pytest.approx([0.275, 0.175, 0.175, 0.125])


def test_without_a_schedule_the_density_is_the_mean():
    run, _ = make_run()
    run.begin_forward({"sigmas": torch.tensor([0.9])})
    assert run.config.density == pytest.approx(0.2)


def test_layers_whose_keys_are_not_alike_part():
    run, sigmas = make_run()
    figures = {name: torch.full((2, 2), 0.1) for name in ("density", "computed", "error")}
    figures |= {name: torch.full((2, 2), name != "dense") for name in ("finite", "exact_finite", "dense")}
    for sigma, alike in ((1.0, 0.99), (0.75, ALIKE - 0.1), (0.5, 0.99)):
        run.begin_forward({"sigmas": torch.tensor([sigma]), "sample_sigmas": sigmas})
        assert run.parted == ({1} if sigma == 0.5 else set())
        for layer, likeness in ((0, 0.99), (1, alike)):
            stats = AttentionStats(**figures, pattern=None, kept_fraction=None, alike=torch.full((2, 2), likeness))
            run.count_sparse([stats], layer)
    assert run.close()["alike"] == pytest.approx((0.99 * 5 + ALIKE - 0.1) / 6, abs=1e-3)
