"""Whether a model's attention comes past this node at all."""

from __future__ import annotations

import threading

from torch import nn

from .compiled import code
from .families import layers
from .reasons import Reason

STALE = Reason("not_reached", "torch.compile had compiled this model without the node; it is being compiled again")
IN_PARTS = Reason(
    "not_reached",
    "this sampler makes the video part by part and keeps the keys of the parts that are done (causal Wan); there is no "
    "sparse form of that here",
)
NOT_REACHED = Reason(
    "not_reached",
    "the self-attention of this model does not reach this node: this ComfyUI does not pass its options down to it "
    "(update ComfyUI), or another node replaced it",
)


class Sightings:
    """What of a run's passes through its models came by; a pass stays in one thread from end to end.

    Decided on the first pass through a model: no cache leaves that one out, as it may do with any later one.
    """

    def __init__(self):
        self._reasons: dict[nn.Module, Reason | None] = {}  # None: seen
        self._compiled_anew: set[nn.Module] = set()
        self._here = threading.local()

    def forget(self) -> None:
        """Before a pass of this thread, and after it."""
        self._here.forward = None

    def put(self, forward) -> None:
        """The pass of this thread came by, as this `Forward`."""
        self._here.forward = forward

    def look(self, model: nn.Module, options: dict, compiled: bool) -> Reason | None:
        """After a pass of this thread through the model: why its attention did not come by, or not all of it; or None.

        Args:
            options: the pass's transformer_options.
            compiled: torch.compile was set up for the model; then it is compiled anew once, for the next pass.
        """
        forward = self._here.forward
        if model in self._reasons:
            return None if forward is not None and forward.calls else self._reasons[model]
        if _is_seen(forward, compiled and not options.get("patches_replace")):  # which may leave layers out
            self._reasons[model] = None
        elif "ar_state" in options:
            self._reasons[model] = IN_PARTS
        elif compiled and model not in code.in_vain and model not in self._compiled_anew:
            self._compiled_anew.add(model)
            code.throw_away(model)
            return STALE
        else:
            if model in self._compiled_anew:
                code.in_vain.add(model)
            self._reasons[model] = NOT_REACHED
        return self._reasons[model]


def _is_seen(forward, whole: bool) -> bool:
    """Whether the video's attention came by: any of it, or in `whole` of each layer; a pass without a video has none."""
    if forward is None:
        return False
    wanted = max(1, layers(forward.family, forward.diffusion_model)) if whole else 1
    return forward.grid is None or forward.calls >= wanted
