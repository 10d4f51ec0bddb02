"""What the demo renders."""

from __future__ import annotations

import pytest
from render import METHODS, ROOT


@pytest.mark.parametrize("method", METHODS[1:], ids=lambda method: method.name)
def test_every_input_is_one_of_the_nodes(method):
    """A host drops an input that the node does not have, and says nothing; docs/settings.md is written from the nodes."""
    settings = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    section = settings.split(f"({method.node.removesuffix('Attention')})\n", 1)[1].split("\n## ")[0]
    assert {name for name in {**method.inputs, **method.schedule} if f"\n| `{name}` |" not in section} == set()
