"""One report of the reports of several GPUs, each of which had some of the heads of a run, or some of the runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from .lines import run_words
from .record import DIGITS, FIGURES

COUNTS = ("sparse_calls", "calls", "not_finite_calls", "broken_calls")
MEANS = tuple(name for name in FIGURES if name not in ("finite", "broken"))
BY_LAYER = ("density", "error")


def join(reports: list[dict]) -> dict:
    """As `Run.report`, of at least one: calls and seconds are sums, and figures are means over the sparse calls.

    Also says of how many `gpus` it is.
    """
    first = reports[0]
    sparse, calls = ([report[name] for report in reports] for name in ("sparse_calls", "calls"))
    joined = first | {name: sum(report[name] for report in reports) for name in COUNTS}
    joined |= {name: _mean((report[name] for report in reports), sparse) for name in MEANS}
    joined |= {"work": _mean((report["work"] for report in reports), calls), "gpus": len(reports)}
    joined["dense_reasons"] = dict(sum((Counter(report["dense_reasons"]) for report in reports), Counter()))
    for name in ("explanations", "kernel_failures"):
        joined[name] = {key: text for report in reports for key, text in report[name].items()}
    for name in ("precision", "precision_reason", "inexact_dense"):
        joined[name] = next((report[name] for report in reports if report[name] is not None), None)
    joined["attention"] = {
        kind: {
            name: round(sum(report["attention"].get(kind, {}).get(name, 0) for report in reports), DIGITS)
            for name in ("calls", "seconds")
        }
        for kind in dict.fromkeys(kind for report in reports for kind in report["attention"])
    }
    joined["untimed"] = sorted({device for report in reports for device in report["untimed"]})
    joined["layers"] = {name: _layers(report["layers"][name] for report in reports) for name in first["layers"]}
    by_number: dict[int, list[dict]] = {}
    for report in reports:
        for step in report["steps"]:
            by_number.setdefault(step["step"], []).append(step)
    joined["steps"] = [_step(by_number[number]) for number in sorted(by_number)]
    return joined | run_words(joined)


def _step(steps: list[dict]) -> dict:
    """One step of the sampler on all GPUs, as `Record.step`."""
    joined = {"step": steps[0]["step"], **{name: _layers(step[name] for step in steps) for name in BY_LAYER}}
    means = (name for name in steps[0] if name not in (*joined, "reasons"))
    joined |= {name: _mean([step[name] for step in steps]) for name in means}
    return joined | {"reasons": {label: text for step in steps for label, text in step["reasons"].items()}}


def _layers(lists: Iterable[list[float | None]]) -> list[float | None]:
    """Means by layer; a GPU on which the last layers were never reached has a shorter list."""
    lists = list(lists)
    longest = max(map(len, lists))
    return [_mean([values[i] if i < len(values) else None for values in lists]) for i in range(longest)]


def _mean(values: Iterable[float | None], weights: Iterable[int] | None = None) -> float | None:
    """Of the values that are known; None if there are none."""
    values = list(values)
    pairs = zip(values, weights or [1] * len(values), strict=True)
    known = [(value, weight) for value, weight in pairs if value is not None and weight]
    total = sum(weight for _, weight in known)
    return round(sum(value * weight for value, weight in known) / total, DIGITS) if known else None
