"""Rebuilds the performance tables and the plot of time against density from the committed results."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

RESULTS = Path(__file__).with_name("results")
# The figures to reach at wan14b_720p: name, target, how a row gives it.
GOALS = "kernel efficiency >= 0.90 · planning <= 3 % of dense · peak <= 1.4 GB · speedup at 25 % density >= 3.2"


def read(folder: Path) -> list[dict]:
    """All rows of all result files, oldest file first."""
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line]


def attention_tables(rows: list[dict]) -> list[str]:
    """A Markdown table a device and shape: provider by density, with the ratio to each peer at about the same density."""
    groups = defaultdict(list)
    for row in rows:
        if row["op"] == "attention" and "ms" in row:
            groups[row["device"], row["shape"]].append(row)
    lines = []
    for (device, shape), group in groups.items():
        best_dense = min(row["ms"] for row in group if row["density"] == 1 and row["provider"].startswith("sdpa"))
        lines += [f"\n### {shape} on {device}\n", "| provider | density | computed | ms | speedup | efficiency | error |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for row in sorted(group, key=lambda row: (row["provider"], -row["density"])):
            speedup = best_dense / row["ms"]
            error = f"{row['error']:.4f}" if "error" in row else ""
            lines.append(
                f"| {row['provider']} | {row['density']:.3f} | {row['computed']:.3f} | {row['ms']:.1f} | {speedup:.2f} | "
                f"{row['computed'] * speedup:.2f} | {error} |"
            )
    return lines


def share_tables(rows: list[dict]) -> list[str]:
    """Planning and memory, a line each."""
    lines = []
    planning = [row for row in rows if row["op"] == "planning" and row["part"] != "attention"]
    if planning:
        lines += ["\n### Planning\n", "| device | shape | provider | part | ms | share of one dense attention |"]
        lines += ["|---|---|---|---|---|---|"]
        lines += [
            f"| {row['device']} | {row['shape']} | {row['provider']} | {row['part']} | {row['ms']:.1f} | "
            f"{row['share_of_dense']:.1%} |"
            for row in planning
        ]
    memory = [row for row in rows if row["op"] == "memory"]
    if memory:
        lines += [
            "\n### Memory\n",
            "| shape | provider | call MB | state MB | both MB | measured call MB |",
            "|---|---|---|---|---|---|",
        ]
        lines += [
            f"| {row['shape']} | {row['provider']} | {row['counted_bytes'] / 1e6:.0f} | {row['state_bytes'] / 1e6:.0f} | "
            f"{row['run_bytes'] / 1e6:.0f} | {round(row['peak_bytes'] / 1e6) if 'peak_bytes' in row else ''} |"
            for row in memory
        ]
    return lines


def plot(rows: list[dict], file: Path) -> None:
    """Time against density, a line a provider, a panel a device and shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = defaultdict(lambda: defaultdict(list))
    for row in rows:
        if row["op"] == "attention" and "ms" in row:
            groups[row["device"], row["shape"]][row["provider"]].append((row["density"], row["ms"]))
    figure, axes = plt.subplots(1, len(groups), figsize=(5 * len(groups), 3.6), layout="constrained", squeeze=False)
    for axis, ((device, shape), providers) in zip(axes[0], groups.items(), strict=True):
        for provider, points in sorted(providers.items()):
            densities, times = zip(*sorted(points), strict=True)
            if set(densities) == {1.0}:
                axis.axhline(min(times), linestyle="--", linewidth=1, label=provider, color="grey")
            else:
                axis.plot(densities, times, marker="o", markersize=3, label=provider)
        axis.set(title=f"{shape}, {device}", xlabel="density", ylabel="ms", xlim=(0, 1), ylim=(0, None))
        axis.legend(fontsize=7)
    figure.savefig(file, dpi=80)
    plt.close(figure)


def main() -> None:
    """Prints the tables; writes the plot where --plot says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--plot", type=Path, default=None)
    arguments = parser.parse_args()
    rows = read(arguments.results)
    if not rows:
        print(f"no results in {arguments.results}: benchmarks/attention.py --json {arguments.results}/NAME.jsonl writes some")
        return
    print(f"To reach: {GOALS}")
    print("\n".join(attention_tables(rows) + share_tables(rows)))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
