"""What a run did, in words: for the log, the panel and the report."""

from __future__ import annotations

from ..kernels import PRECISIONS

REMEDY = "Remove that node, or set dense_attention to host."
LESS_WORK = 0.95  # of dense attention: above it the difference is not worth a word


def step_words(step: dict, steps: int | None) -> dict:
    """`run_words` of one step of a sampler's `steps`, if it is known how many; `step` as `Record.step` has it."""
    density, error = (_mean(step[name]) for name in ("density", "error"))
    place = f"Step {step['step'] + 1}" + (f" of {steps}" if steps else "")
    return {
        "line": _joined(place, "dense" if density is None else "sparse", *_figures(density, error)),
        "heads": _heads(step),
        "warnings": [],
        "notes": [f"{label}: {explanation}" for label, explanation in step["reasons"].items()],
    }


def run_words(report: dict) -> dict:
    """A run in words, by the figures of `Run.report`.

    Returns:
        line: `36 of 48 calls sparse, density 0.31, error 2.1%, 0.52 of the work of dense attention`.
        heads: what the heads did, such as `60% of heads spatial, 40% temporal`; may be empty.
        warnings: what is not as it should be, a sentence each.
        notes: why calls stayed dense, a line a reason; why the precision is not the one that was set.
    """
    return {"line": _line(report), "heads": _heads(report), "warnings": _warnings(report), "notes": _notes(report)}


def log_line(report: dict) -> str:
    """A run in one line: its line, what the heads did, and how many calls stayed dense for which reason."""
    dense = ", ".join(f"{calls} {label}" for label, calls in report["dense_reasons"].items())
    parts = (f"{report['method']}: {report['line']}", report["heads"], dense and f"calls that stayed dense: {dense}")
    return "; ".join(filter(None, parts))


def time_lines(report: dict) -> list[str]:
    """Seconds by kind of call, and how much faster a sparse call was; devices on which that was not measured."""
    lines, per_call = [], {}
    for kind in ("dense", "warm_up", "sparse"):
        if kind in report["attention"]:
            calls, seconds = report["attention"][kind].values()
            per_call[kind] = seconds / calls
            lines.append(f"{kind.replace('_', '-')}: {seconds:.2f} s in {calls} calls, {1000 * per_call[kind]:,.1f} ms each")
    if "dense" in per_call and "sparse" in per_call:
        lines.append(f"A sparse call took {per_call['sparse'] / per_call['dense']:.2f} times as long as a dense one.")
    return lines + [f"Not measured on {device}." for device in report["untimed"]]


def _line(report: dict) -> str:
    calls, sparse = report["calls"], report["sparse_calls"]
    if not sparse:
        return f"All {_calls(calls)} dense" if calls else "No attention call reached this node"
    work = f"{report['work']:.2f} of the work of dense attention" if report["work"] <= LESS_WORK else None
    few = f" in {report['precision']}" if report["precision"] not in (None, PRECISIONS[0]) else ""
    gpus = f" on {report['gpus']} GPUs" if report["gpus"] > 1 else ""
    return _joined(f"{sparse} of {calls} calls sparse{few}{gpus}", *_figures(report["density"], report["error"]), work)


def _heads(figures: dict) -> str:
    temporal, kept, alike, dense = (figures[name] for name in ("temporal", "kept_fraction", "alike", "dense_heads"))
    return _joined(
        None if temporal is None else f"{_percent(1 - temporal)} of heads spatial, {_percent(temporal)} temporal",
        None if kept is None else f"{_percent(kept)} of key clusters computed",
        None if alike is None else f"keys with and without the prompt {_percent(alike)} alike",
        f"{_percent(dense)} of heads above max_error and computed in full" if dense else None,
    )


def _warnings(report: dict) -> list[str]:
    broken, failed, sparse = report["broken_calls"], report["kernel_failures"], report["inexact_dense"]
    inherited, lines = report["not_finite_calls"] - broken, []
    if inherited:
        where = f"NaN or infinity in {_calls(inherited, 'sparse call')}"
        lines.append(f"{where}, in dense attention too: it comes from the model's q, k or v")
    if broken:
        lines.append(
            f"NaN or infinity in {_calls(broken, 'sparse call')} where dense attention has none: please report this fault"
        )
    if sparse and report["dense_reasons"]:
        lines.append(f"The dense calls may not be exact: {sparse}, which seems to be sparse itself, computes them. {REMEDY}")
    failed = [place for place in failed if not place.startswith("gather_attention")]  # without that one calls are dense
    if failed:
        lines.append(f"torch does the work of Triton kernels that failed: {', '.join(failed)}")
    return lines


def _notes(report: dict) -> list[str]:
    reasons = [(label, report["explanations"][label], _calls(n)) for label, n in report["dense_reasons"].items()]
    dense = [f"{label}{explanation and f': {explanation}'} ({calls})" for label, explanation, calls in reasons]
    return [*dense, *filter(None, [report["precision_reason"]])]


def _figures(density: float | None, error: float | None) -> tuple[str | None, str | None]:
    return None if density is None else f"density {density:.2f}", None if error is None else f"error {error:.1%}"


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(share: float) -> str:
    return f"{share:.1%}" if 0 < share < 0.0995 else f"{share:.0%}"


def _calls(number: int, noun: str = "call") -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _joined(*parts: str | None) -> str:
    return ", ".join(filter(None, parts))
