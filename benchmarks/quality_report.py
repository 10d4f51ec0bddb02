"""Rebuilds the quality tables and the plot of quality against the computed share from the committed results."""

from __future__ import annotations

import argparse
from collections import defaultdict
from pathlib import Path

from report import RESULTS, read, table

STYLES = {
    "svg": ("SVG", "C0", "o"),
    "svg2-paper": ("SVG2 as published", "C1", "s"),
    "svg2-mass": ("SVG2 by mass, with the tail", "C2", "^"),
    "svg2": ("SVG2 by error", "C3", "D"),
    "svg2-target": ("SVG2 by error, to a target", "C4", "v"),
    "top-blocks": ("top 64-blocks", "grey", "x"),
    "random-blocks": ("random 64-blocks", "lightgrey", "+"),
    "random-clusters-tail": ("random clusters, with the tail", "tan", "1"),
}
FIGURES = "density | work | computed | PSNR, dB | lowest | SSIM | attention error"
CELLS = "density:.3f work:.3f computed:.3f psnr:.1f psnr_min:.1f ssim:.3f error:.3f"
# Op -> title, header and cells of its table. docs/ shows lines of these.
TABLES = {
    "quality": ("Tiny model", f"method | setting | dense first | {FIGURES}", f"name setting start_percent:.0% {CELLS}"),
    "quality-study": ("One setting at a time", f"what varies | value | {FIGURES}", f"name setting {CELLS}"),
    "quality-schedule": (
        "Dense steps at equal work",
        f"method | steps | which are dense | {FIGURES} | change error",
        f"name steps setting {CELLS} change_error:.3f",
    ),
    "quality-precision": (
        "Products in fewer bits",
        f"method | setting | dense first | {FIGURES} | added | added, worst head",
        f"name setting start_percent:.0% {CELLS} added:.2% added_max:.2%",
    ),
    "quality-heads-precision": (
        "Products in fewer bits, heads as concentrated as {shape}'s, {tokens:,} tokens",
        "head | density | precision | attention error | added | added, worst head",
        "content density:.2f precision error:.4f added:.2% added_max:.2%",
    ),
    "quality-heads": (
        "Heads as concentrated as {shape}'s, {tokens:,} tokens",
        "method | setting | density | computed | mean error | worst head",
        "name setting density:.3f computed:.3f error:.4f error_max:.4f",
    ),
}


def tables(rows: list[dict]) -> list[str]:
    """Markdown: the curves, the studies, the schedules, the heads."""
    lines = []
    for op, (title, *form) in TABLES.items():
        of_op = [{"name": STYLES.get(row["provider"], [row["provider"]])[0], **row} for row in rows if row["op"] == op]
        lines += table(title.format(**of_op[0]), *form, of_op) if of_op else []
    return lines


def plot(rows: list[dict], file: Path) -> None:
    """PSNR, SSIM and error by warm-up, and the heads' error, against what a GPU's tiles would compute."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    starts = sorted({row["start_percent"] for row in rows if row["op"] == "quality"})
    panels = [("quality", start, column) for start in starts for column in ("psnr", "ssim", "error")]
    panels.insert(3, ("quality-heads", None, "error"))  # a row of the figure holds four
    figure, axes = plt.subplots(2, 4, figsize=(13, 6), layout="constrained")
    for axis, (op, start, column) in zip(axes.flat, panels, strict=False):
        curves = defaultdict(list)
        for row in rows:
            if row["op"] == op and (start is None or row["start_percent"] == start):
                curves[row["provider"]].append((row["computed"], row[column]))
        for provider, points in curves.items():
            label, colour, marker = STYLES[provider]
            axis.plot(*zip(*sorted(points), strict=True), color=colour, marker=marker, markersize=4, linewidth=1, label=label)
        where = "synthetic heads" if start is None else f"tiny model, {start:.0%} dense"
        name = {"psnr": "PSNR, dB", "ssim": "SSIM", "error": "attention error"}[column]
        axis.set(
            title=where, xlabel="computed share", ylabel=name, yscale="log" if column == "error" else "linear", xlim=(0, 0.6)
        )
    for spare in axes.flat[len(panels) :]:
        spare.axis("off")
    figure.legend(*axes.flat[0].get_legend_handles_labels(), loc="lower right", fontsize=9)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=70)
    plt.close(figure)


def main() -> None:
    """Prints the tables; writes the plot where --plot says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    rows = [row for row in read(arguments.results) if row["op"].startswith("quality")]
    if not rows:
        print(f"no results in {arguments.results}: benchmarks/quality.py --json {arguments.results}/quality.jsonl writes some")
        return
    print("\n".join(tables(rows)))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
