"""How many operations does a call in the middle of a run start? Each waits about 5 us for its turn on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

from calls import methods
from counts import count
from measure import parse_arguments, run
from shapes import Shape

COLUMNS = ("shape", "provider", "launches", "torch", "triton", "most")


def rows_of(shape: Shape, arguments) -> Iterator[dict]:
    """A row a method."""
    for provider, config in methods(shape).items():
        counts = count(shape, config)
        row = {"torch": counts.torch.total(), "triton": counts.triton.total()}
        most = (counts.torch + counts.triton).most_common(3)
        row["most"] = ", ".join(f"{name.removeprefix('aten::')} {times}" for name, times in most)
        yield {"provider": provider, "launches": row["torch"] + row["triton"], **row}


if __name__ == "__main__":
    run("launches", COLUMNS, rows_of, parse_arguments(__doc__))
