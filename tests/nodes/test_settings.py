"""Settings as the nodes validate them; needs no host."""

from __future__ import annotations

import re

import pytest
from sparse_videogen.nodes.presets import CUSTOM, SVG2_PRESETS, SVG_PRESETS, UNUSED, resolve
from sparse_videogen.nodes.settings import Settings, describe_blocks, parse_blocks
from sparse_videogen.svg_core import SVG2Config, SVGConfig
from sparse_videogen.svg_core.config import CHOICES


@pytest.mark.parametrize(
    "text, blocks, shown",
    [
        *(("", set(), ""), ("0", {0}, "0"), ("5-5", {5}, "5")),
        *(("0, 1, 38-39", {0, 1, 38, 39}, "0-1, 38-39"), (" 2 - 4 ,,7", {2, 3, 4, 7}, "2-4, 7")),
    ],
)
def test_parses_and_describes_blocks(text, blocks, shown):
    assert parse_blocks(text) == blocks and describe_blocks(blocks) == shown


@pytest.mark.parametrize("text", ["x", "1-", "3-2", "-1", "1;2", "1.5", "1000", "0-99999999999"])
def test_rejects_blocks(text):
    with pytest.raises(ValueError, match="dense_blocks="):
        parse_blocks(text)


@pytest.mark.parametrize("text", ["9" * 5000, f"3-{'9' * 5000}", "x" * 5000], ids=["number", "range", "letters"])
def test_long_wrong_blocks_are_cut_in_the_message(text):
    shown = f"'{text[:40]}...'"
    with pytest.raises(ValueError) as refused:
        parse_blocks(text)
    assert str(refused.value) == f"dense_blocks={shown}: {shown} must be a block number or a range like 38-39, at most 999"


@pytest.mark.parametrize(
    "settings",
    [
        *({"start_percent": start, "end_percent": end} for start, end in ((0.5, 0.5), (0.6, 0.2), (-0.1, 1.0), (0.0, 1.1))),
        *({"max_error": value} for value in (-0.1, 1.1)),
        {"backend": "cuda"},
    ],
    ids=str,
)
def test_rejects_bad_settings(settings):
    with pytest.raises(ValueError, match=", ".join(f"{name}={value!r}" for name, value in settings.items()) + ": .*must be"):
        Settings(SVGConfig(), **settings)


def test_names_the_method():
    assert (Settings(SVGConfig()).method, Settings(SVG2Config()).method) == ("SVG", "SVG2")


COMMON = {"start_percent": 0.5, "end_percent": 1.0, "dense_blocks": "3", "min_tokens": 5, "backend": "torch", "verbose": False}
WIDGETS = {
    SVGConfig: {"sparsity": 0.5, "sampled_rows": 32, "max_error": 0.1, **COMMON},
    SVG2Config: {
        **{"top_p": 0.5, "q_clusters": 7, "k_clusters": 8, "min_keep": 0.2, "tail": "off", "max_error": 0.1, **COMMON},
        **{"kmeans_init_iters": 3, "kmeans_step_iters": 1, "recluster_every": 2, "score_every": 4},
        **{"choose_by": "target_error", "density": 0.35, "density_start": 1.2, "target_error": 0.015},
    },
}


@pytest.mark.parametrize("config, presets", [(SVGConfig, SVG_PRESETS), (SVG2Config, SVG2_PRESETS)], ids=["SVG", "SVG2"])
class TestPresets:
    def test_custom_reads_the_widgets(self, config, presets):
        settings = Settings.of(config, resolve(presets, CUSTOM, WIDGETS[config]), "7")
        widgets = dict(WIDGETS[config], dense_blocks=frozenset({3}))
        parts = {**vars(settings), **vars(settings.config)}
        assert {name: parts[name] for name in widgets} == widgets and settings.node_id == "7"

    def test_a_named_one_wins_over_the_widgets(self, config, presets):
        for name, values in presets.items():
            settings = Settings.of(config, resolve(presets, name, WIDGETS[config]), None)
            parts = {**vars(settings), **vars(settings.config)}
            assert values.keys() <= WIDGETS[config].keys()
            for widget, value in (WIDGETS[config] | values).items():
                assert parts[widget] == (parse_blocks(value) if widget == "dense_blocks" else value), (name, widget)

    def test_an_unknown_one_is_named(self, config, presets):
        names = re.escape(", ".join([CUSTOM, *presets]))
        with pytest.raises(ValueError, match=f"preset='Warp': must be one of {names}$"):
            resolve(presets, "Warp", WIDGETS[config])


class TestChoice:
    """What of SVG2 counts for which choice."""

    def test_names_every_choice_and_inputs_that_there_are(self):
        assert tuple(UNUSED) == CHOICES
        fields = SVG2Config.__dataclass_fields__.keys() - {"choose_by"}
        assert all(set(unused) < fields and choice not in unused for choice, unused in UNUSED.items())

    def test_a_preset_sets_what_counts_and_another_sets(self):
        """So that it means the same whichever preset was there before; and it leaves the rest as it was."""
        set_by_any = {widget for preset in SVG2_PRESETS.values() for widget in preset}
        for name, preset in SVG2_PRESETS.items():
            assert preset.keys() == set_by_any - set(UNUSED[preset["choose_by"]]), name

    def test_the_papers_presets_choose_by_top_p_and_no_others(self):
        assert {name.endswith("(paper)") for name, preset in SVG2_PRESETS.items() if preset["choose_by"] == "top_p"} == {True}
        assert all(preset["choose_by"] == "top_p" for name, preset in SVG2_PRESETS.items() if name.endswith("(paper)"))
