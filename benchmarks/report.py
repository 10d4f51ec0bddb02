"""Rebuilds the performance tables from the committed results."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

BEST_CONFIGS = 3
RESULTS = Path(__file__).with_name("results")
# Op -> title, header and cells of its table: of each column the name of its value and a format; bytes stand in MB.
TABLES = {
    "attention": (
        "Attention",
        "device | shape | provider | density | computed | ms | speedup | efficiency | error",
        "device shape provider density:.3f computed:.3f ms:.1f speedup:.2f efficiency:.2f error:.4f",
    ),
    "planning": (
        "Planning",
        "device | shape | provider | part | ms | share of one dense attention",
        "device shape provider part ms:.1f share_of_dense:.1%",
    ),
    "memory": (
        "Memory",
        "shape | provider | precision | call MB | state MB | both MB | measured call MB",
        "shape provider precision counted_bytes:.0f state_bytes:.0f run_bytes:.0f peak_bytes:.0f",
    ),
    "ceilings": (
        "Ceilings",
        "device | what | TFLOP/s | GB/s | us a launch | SMs | L2 MB | MHz",
        "device provider tflops:.3g gbps:.3g launch_us:.3g sms l2_bytes:.0f sm_mhz",
    ),
    "tune": (
        "Tuning",
        "device | kernel | tail | shape | heads | config | density | ms | TFLOP/s",
        "device kernel tail shape heads config density:.3g ms:.2f tflops:.3g",
    ),
    "profile": (
        "One call",
        "device | shape | part | launches | ms | share of the call",
        "device shape part launches ms:.2f share:.1%",
    ),
    "steps": (
        "Whole steps in ComfyUI",
        "device | shape | provider | density | precision | s a step | s a dense step | speedup | end to end | peak MB",
        "device shape provider density:.3f precision s_step:.2f s_dense_step:.2f speedup:.2f end_to_end:.2f peak_bytes:.0f",
    ),
    "step parts": (
        "Where a step's time goes",
        "device | shape | provider | density | part | launches | ms | share of the step",
        "device shape provider density:.3f part launches ms:.0f share:.1%",
    ),
}


def read(folder: Path) -> list[dict]:
    """All rows of all result files, oldest file first."""
    files = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines() if line]


def table(title: str, header: str, cells: str, rows: list[dict]) -> list[str]:
    """A Markdown table under its title, nothing without rows."""
    columns = [cell.partition(":")[::2] for cell in cells.split()]
    lines = ["| " + " | ".join(_cell(row, *column) for column in columns) + " |" for row in rows]
    return [f"\n### {title}\n", f"| {header} |", "|---" * len(columns) + "|", *lines] if rows else []


def _cell(row: dict, name: str, form: str) -> str:
    if row.get(name) is None:
        return ""
    return format(row[name] / 1e6 if name.endswith("_bytes") else row[name], form)


def shown(op: str, rows: list[dict]) -> list[dict]:
    """The rows of an op's table: of tuning the fastest of each case, of a profile its parts without their kernels."""
    rows = [row for row in rows if row["op"] == op and "missing" not in row]
    if op == "attention":
        return sorted(rows, key=lambda row: (row["device"], row["shape"], row["provider"], -row["density"]))
    if op == "profile":
        return [row for row in rows if not row["part"].startswith("kernel ")]
    if op == "tune":
        cases = defaultdict(list)
        for row in sorted(rows, key=lambda row: row["ms"]):
            cases[tuple(row[name] for name in ("device", "kernel", "shape", "tail"))].append(row)
        return [row for case in sorted(cases) for row in cases[case][:BEST_CONFIGS]]
    return rows


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    rows = read(arguments.results)
    if not rows:
        print(f"no results in {arguments.results}: benchmarks/attention.py --json {arguments.results}/NAME.jsonl writes some")
    print("\n".join(line for op, texts in TABLES.items() for line in table(*texts, shown(op, rows))))


if __name__ == "__main__":
    main()
