"""The two methods: each is a module, and both have the same names.

NAME: as users read it.
WARMS_UP: whether `warm_up` does anything.
plan(q, k, v, call, state, key) -> Planned: of the video's queries.
warm_up(q, k, call, state, key): brings the state forward in a step whose attention stays dense.
call_bytes(call, batch, heads, head_dim) -> int: what a call allocates at its peak, its output and the state apart.
state_bytes(call, batch, heads, head_dim) -> int: what a layer keeps from call to call for one conditioning.
can_split(call, batch, heads) -> bool: whether half the workspace would make a call take less memory.
note(call) -> str | None: what of the settings this video cannot have.
"""

from __future__ import annotations

from . import svg, svg2
from .config import SVG2Config, SVGConfig

METHODS = {SVGConfig: svg, SVG2Config: svg2}
