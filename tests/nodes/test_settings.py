"""Settings as the nodes validate them; needs no host."""

from __future__ import annotations

import pytest
from sparse_videogen.nodes.settings import Settings, parse_blocks
from sparse_videogen.svg_core import SVG2Config, SVGConfig


@pytest.mark.parametrize(
    "text, blocks",
    [("", set()), ("0", {0}), ("0, 1, 38-39", {0, 1, 38, 39}), (" 2 - 4 ,,7", {2, 3, 4, 7}), ("5-5", {5})],
)
def test_parses_blocks(text, blocks):
    assert parse_blocks(text) == blocks


@pytest.mark.parametrize("text", ["x", "1-", "3-2", "-1", "1;2", "1.5", "1000", "0-99999999999"])
def test_rejects_blocks(text):
    with pytest.raises(ValueError, match="dense_blocks="):
        parse_blocks(text)


@pytest.mark.parametrize("start, end", [(0.5, 0.5), (0.6, 0.2), (-0.1, 1.0), (0.0, 1.1)])
def test_rejects_a_schedule(start, end):
    with pytest.raises(ValueError, match=f"start_percent={start}, end_percent={end}"):
        Settings(SVGConfig(), start_percent=start, end_percent=end)


def test_rejects_a_backend():
    with pytest.raises(ValueError, match="backend='cuda': must be one of auto, triton, torch"):
        Settings(SVGConfig(), backend="cuda")


def test_names_the_method():
    assert (Settings(SVGConfig()).method, Settings(SVG2Config()).method) == ("SVG", "SVG2")
