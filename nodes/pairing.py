"""Which conditionings of a video share the planning of their attention: with a prompt and without, by what the host says."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

ALIKE = 0.5  # cosine of two conditionings' keys; below it they part


@dataclass(frozen=True)
class Turn:
    """One evaluation of the model by the sampler, which may take the host several forwards.

    Attributes:
        number: counts them.
        pair: ids of the two conditionings that are evaluated, or nothing.
    """

    number: int = 0
    pair: frozenset[Hashable] = frozenset()

    def next(self, conds: list[list[dict] | None]) -> Turn:
        """The evaluation after this one.

        Two conditionings are a pair where each is all that its side of the guidance has. None is where there is no
        guidance, where a side has several (areas, prompts that take turns), and where guidance has more sides than two.
        """
        sides = [side or [] for side in conds]
        paired = len(sides) == 2 and all(len(side) == 1 for side in sides)
        return Turn(self.number + 1, frozenset(side[0].get("uuid") for side in sides) if paired else frozenset())

    def has(self, ids: tuple) -> bool:
        """Whether a forward for these conditionings is one of the pair's."""
        return len(self.pair) == 2 and bool(ids) and len(set(ids)) == len(ids) and self.pair.issuperset(ids)
