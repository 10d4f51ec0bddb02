"""A run in words, from its figures; needs no host."""

from __future__ import annotations

import pytest
from sparse_videogen.nodes.lines import log_line, run_words, step_words

REPORT = {
    "method": "SVG2",
    "gpus": 1,
    "sparse_calls": 36,
    "calls": 48,
    "density": 0.312,
    "error": 0.0209,
    "work": 0.53,
    "temporal": None,
    "kept_fraction": 0.2,
    "alike": None,
    "dense_heads": 0.0,
    "dense_reasons": {"start_percent": 11, "dense_blocks": 1},
    "explanations": {"start_percent": "early", "dense_blocks": ""},
    "not_finite_calls": 0,
    "broken_calls": 0,
    "inexact_dense": None,
    "precision": "16 bit",
    "precision_reason": None,
    "kernel_failures": {},
}
NOTHING = {"sparse_calls": 0, "density": None, "error": None, "kept_fraction": None, "dense_heads": None, "work": 1.0}


def test_a_run():
    words = run_words(REPORT)
    line, heads = (
        "36 of 48 calls sparse, density 0.31, error 2.1%, 0.53 of the work of dense attention",
        "20% of key clusters computed",
    )
    assert words == {
        "line": line,
        "heads": heads,
        "warnings": [],
        "notes": ["start_percent: early (11 calls)", "dense_blocks (1 call)"],
    }
    assert log_line(REPORT | words) == f"SVG2: {line}; {heads}; calls that stayed dense: 11 start_percent, 1 dense_blocks"


@pytest.mark.parametrize(
    "change, line",
    [
        ({"work": 0.97}, "36 of 48 calls sparse, density 0.31, error 2.1%"),
        ({"precision": "int8"}, "36 of 48 calls sparse in int8, density 0.31, error 2.1%, 0.53 of the work of dense attention"),
        (NOTHING, "All 48 calls dense"),
        (NOTHING | {"calls": 0, "work": None, "dense_reasons": {}}, "No attention call reached this node"),
    ],
    ids=["no gain", "few bits", "dense", "no calls"],
)
def test_a_run_with_less_to_tell(change, line):
    assert run_words(REPORT | change)["line"] == line


def test_conditionings_that_share_their_clusters():
    assert (
        run_words(REPORT | {"alike": 0.987})["heads"]
        == "20% of key clusters computed, keys with and without the prompt 99% alike"
    )


def test_heads_of_svg():
    figures = {"temporal": 0.4, "kept_fraction": None, "dense_heads": 0.048}
    heads = "60% of heads spatial, 40% temporal, 4.8% of heads above max_error and computed in full"
    assert run_words(REPORT | figures)["heads"] == heads


def test_a_step():
    step = {"step": 6, "density": [None, 0.2, 0.4], "error": [None, 0.02, 0.04], "reasons": {"dense_blocks": "block 0"}}
    step["alike"] = None
    words = step_words(step | {"temporal": None, "kept_fraction": 0.2, "dense_heads": 0.0}, 10)
    assert words["line"] == "Step 7 of 10, sparse, density 0.30, error 3.0%" and words["notes"] == ["dense_blocks: block 0"]
    dense = step | {"density": [None] * 3, "error": [None] * 3, "temporal": None, "kept_fraction": None, "dense_heads": None}
    assert step_words(dense, None)["line"] == "Step 7, dense"


@pytest.mark.parametrize(
    "change, said",
    [
        ({"not_finite_calls": 2}, ["in 2 sparse calls, in dense attention too"]),
        ({"not_finite_calls": 1, "broken_calls": 1}, ["in 1 sparse call where dense attention has none"]),
        ({"not_finite_calls": 4, "broken_calls": 3}, ["in 1 sparse call, in dense", "in 3 sparse calls where dense"]),
        ({"inexact_dense": "other_pack.nodes"}, ["other_pack.nodes, which seems to be sparse itself"]),
        ({"inexact_dense": "other_pack.nodes", "dense_reasons": {}}, []),
        ({"kernel_failures": {"assign (9.0, bfloat16)": "no ptxas"}}, ["Triton kernels that failed: assign (9.0, bfloat16)"]),
    ],
)
def test_what_went_wrong(change, said):
    warnings = run_words(REPORT | change)["warnings"]
    assert len(warnings) == len(said) and all(part in line for part, line in zip(said, warnings, strict=True))
