"""Rebuilds the performance tables and the plot of time against density from the committed results."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

BEST_CONFIGS = 3
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
        dense = (row["ms"] for row in group if row["density"] == 1 and row["provider"].startswith("sdpa"))
        best_dense = min(dense, default=float("nan"))
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


def table(title: str, header: str, lines: list[str]) -> list[str]:
    """A Markdown table under its title, nothing without lines."""
    return [f"\n### {title}\n", f"| {header} |", "|---" * (header.count("|") + 1) + "|", *lines] if lines else []


def share_tables(rows: list[dict]) -> list[str]:
    """Planning and memory, a line each."""
    planning = [
        f"| {row['device']} | {row['shape']} | {row['provider']} | {row['part']} | {row['ms']:.1f} | "
        f"{row['share_of_dense']:.1%} |"
        for row in rows
        if row["op"] == "planning" and row["part"] != "attention" and "ms" in row
    ]
    memory = [
        f"| {row['shape']} | {row['provider']} | {_mb(row, 'counted_bytes')} | {_mb(row, 'state_bytes')} | "
        f"{_mb(row, 'run_bytes')} | {_mb(row, 'peak_bytes')} |"
        for row in rows
        if row["op"] == "memory"
    ]
    return table("Planning", "device | shape | provider | part | ms | share of one dense attention", planning) + table(
        "Memory", "shape | provider | call MB | state MB | both MB | measured call MB", memory
    )


def _mb(row: dict, name: str) -> str:
    return "" if row.get(name) is None else f"{row[name] / 1e6:.0f}"


def ceiling_table(rows: list[dict]) -> list[str]:
    """What each device does at most."""
    lines = []
    for row in rows:
        if row["op"] != "ceilings" or "missing" in row:
            continue
        if row["provider"] == "device":
            value = f"{row['sms']} SMs, {row['l2_bytes'] / 1e6:.0f} MB of L2, {row['sm_mhz']} MHz"
        else:
            units = {"tflops": "TFLOP/s", "gbps": "GB/s", "launch_us": "us a launch"}
            value = next(f"{row[name]:.3g} {unit}" for name, unit in units.items() if name in row)
        lines.append(f"| {row['device']} | {row['provider']} | {value} |")
    return table("Ceilings", "device | what | measured", lines)


def tuning_table(rows: list[dict]) -> list[str]:
    """The fastest configs of each kernel, shape and case; all at one selection of keys, each with its own density."""
    groups = defaultdict(list)
    for row in rows:
        if row["op"] == "tune" and "missing" not in row:
            groups[row["device"], row["kernel"], row["shape"], row["tail"]].append(row)
    lines = []
    for (device, kernel, shape, tail), group in groups.items():
        for row in sorted(group, key=lambda row: row["ms"])[:BEST_CONFIGS]:
            density, rate = (f"{row[name]:.3g}" if name in row else "" for name in ("density", "tflops"))
            lines.append(
                f"| {device} | {kernel} {tail} | {shape}, {row['heads']} heads | {row['config']} | {density} | "
                f"{row['ms']:.2f} | {rate} |"
            )
    return table("Tuning", "device | kernel | shape | config | density | ms | TFLOP/s", lines)


def profile_table(rows: list[dict]) -> list[str]:
    """The parts of one call, its single kernels apart."""
    lines = [
        f"| {row['device']} | {row['shape']} | {row['part']} | {row['launches']} | {row['ms']:.2f} | {row['share']:.1%} |"
        for row in rows
        if row["op"] == "profile" and not row["part"].startswith("kernel ")
    ]
    return table("One call", "device | shape | part | launches | ms | share of the call", lines)


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
    tables = (attention_tables, share_tables, ceiling_table, tuning_table, profile_table)
    print("\n".join(line for make in tables for line in make(rows)))
    if arguments.plot:
        plot(rows, arguments.plot)


if __name__ == "__main__":
    main()
