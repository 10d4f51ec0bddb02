"""How much memory does a run need beyond dense attention: at the peak of a call, and kept from call to call?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from calls import call_options, methods
from device import interleaved, on_gpu
from measure import inputs, layout_of, parse_arguments, run
from shapes import CONDITIONINGS, Shape
from sparse_videogen.kernels import PRECISIONS
from sparse_videogen.svg_core import METHODS, Call, sparse_attention

# counted: without a GPU, on the meta device; estimated: what the nodes tell the host; peak_bytes: measured on a GPU.
COLUMNS = ("shape", "provider", "precision", "counted_bytes", "estimated_bytes", "state_bytes", "run_bytes", "peak_bytes", "ms")


def estimated(shape: Shape, config, batch: int = 1, conditionings: int = 1, precision: str = PRECISIONS[0]) -> dict:
    """What the nodes tell the host: bytes of a call, and of the state of all layers."""
    options = {"conditionings": conditionings, "precision": precision}
    call = Call.planned(config, layout_of(shape), shape.head_dim, torch.device("meta"), **options)
    size, method, branches = (batch, shape.heads, shape.head_dim), METHODS[type(config)], CONDITIONINGS
    return {
        "estimated_bytes": method.call_bytes(call, *size),
        "state_bytes": shape.layers * method.state_bytes(replace(call, conditionings=branches), branches * batch, *size[1:]),
    }


def counted(shape: Shape, config, batch: int = 1, conditionings: int = 1, precision: str = PRECISIONS[0]) -> int:
    """Bytes that a call in the middle of a run has allocated at its peak, its output apart, for bf16."""
    from launches import count  # puts Triton into its interpreter: never where kernels shall run

    return count(shape, config, batch, conditionings, precision).peak


def measured(shape: Shape, config, precision: str, arguments) -> dict:
    """Times and peak_bytes of a call in the middle of a run, on a GPU."""
    given, options = inputs(shape, arguments.device), call_options(config, shape) | {"precision": precision}
    return interleaved({"": lambda: sparse_attention(*given, **options)}, arguments.device, arguments.repeats)[""]


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a method and precision; without a GPU as on one that has all of them."""
    for (provider, config), precision in product(methods(shape).items(), PRECISIONS):
        row = {"provider": provider, "precision": precision, **estimated(shape, config, precision=precision)}
        if on_gpu(arguments.device):
            row |= measured(shape, config, precision, arguments)
        else:
            row["counted_bytes"] = counted(shape, config, precision=precision)
            row["run_bytes"] = row["counted_bytes"] + row["state_bytes"]
        yield row


if __name__ == "__main__":
    run("memory", COLUMNS, rows_of, parse_arguments(__doc__))
