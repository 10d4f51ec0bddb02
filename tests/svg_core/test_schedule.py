"""The density over a schedule: its mean, however many steps there are and however they are shared out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sparse_videogen.svg_core import SVG2Config, SVGConfig, places
from sparse_videogen.svg_core.schedule import TIE


def densities(config, progress, **part):
    return [config.at(place).density for place in places(progress, **part)]


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 10, 20, 50])
@pytest.mark.parametrize("mean", [0.08, 0.3, 0.6, 0.8, 1.0])
def test_the_mean_is_what_was_asked_for(steps, mean):
    config = SVG2Config(density=mean)
    found = densities(config, [i / steps for i in range(steps + 1)])
    assert sum(found) / steps == pytest.approx(mean) and max(found) <= 1
    assert found == sorted(found, reverse=True)
    if steps >= 10 and mean < 0.6:
        assert found[0] > 1.4 * mean and found[-1] < 0.6 * mean


def test_a_flat_line_and_other_choices_do_not_change():
    assert len(set(densities(SVG2Config(density_start=1.0), [0, 0.5, 1]))) == 1
    for config in (SVG2Config(choose_by="target_error"), SVG2Config(choose_by="top_p"), SVGConfig()):
        assert config.at(0.1) is config


@given(
    cuts=st.lists(st.floats(0.01, 1), min_size=1, max_size=30),
    start=st.sampled_from([0.0, 0.2, 0.35]),
)
def test_steps_spread_unevenly_have_the_mean_all_the_same(cuts, start):
    """Schedulers crowd their steps: places are moved together, not stretched, and only as far as they stay in the range."""
    total = sum(cuts)
    progress = [sum(cuts[:i]) / total for i in range(len(cuts))] + [1.0]
    found = places(progress, start)
    sparse = [place for place, begin in zip(found, progress, strict=False) if begin >= start - TIE]
    assert all(0 <= place <= 1 for place in found)
    if all(0 < place < 1 for place in sparse):
        assert not sparse or sum(sparse) / len(sparse) == pytest.approx(0.5, abs=1e-3)


def test_two_samplers_that_share_a_schedule_fall_as_one():
    progress = [i / 20 for i in range(21)]
    config = SVG2Config(density=0.25)
    whole = densities(config, progress)
    split = densities(config, progress[:9]) + densities(config, progress[8:])
    assert split == pytest.approx(whole)


@pytest.mark.parametrize("start, dense", [(0.2, 2), (0.25, 3), (0.35, 4)])
def test_the_line_runs_over_the_sparse_part(start, dense):
    """Also where its border falls into a step, which is dense then."""
    progress = [i / 10 for i in range(11)]
    found = densities(SVG2Config(density=0.3), progress, start=start)[dense:]
    assert sum(found) / len(found) == pytest.approx(0.3) and found[0] > 0.42 and found[-1] < 0.18
    found = densities(SVG2Config(density=0.3), progress, end=0.55)[:6]
    assert sum(found) / 6 == pytest.approx(0.3)
