"""Dense, SVG and SVG2 side by side: through a ComfyUI if one is found, else the core alone."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from comfy_host import find_hosts, host_version
from load_pack import load_pack

OUT = Path(__file__).with_name("out")


def main() -> None:
    """Prints the table and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--core", action="store_true", help="run the core alone even where a ComfyUI is found")
    arguments = parser.parse_args()
    load_pack()
    import core_demo
    import pattern_picture

    hosts = [] if arguments.core else find_hosts()
    if hosts:
        from workflow_render import render_on_host

        print(f"ComfyUI {host_version(hosts[0])} at {hosts[0]}: the Wan 2.1 example workflow, on a tiny random checkpoint")
        rows = render_on_host(hosts[0], progress=show_progress)
    else:
        if not arguments.core:
            print("No ComfyUI found: set COMFYUI_PATH=/path/to/ComfyUI to run the demo in it. Until then, the core alone:")
        print("One layer's attention of a synthetic scene, {} x {} x {} tokens".format(*core_demo.GRID))
        rows = list(core_demo.run(show_progress))
    print_table(rows)
    if hosts:
        print(
            "Random weights attend nearly everywhere, so SVG2 rightly keeps most keys. The render is too short to gain time: "
            "read the densities and errors here, and times in benchmarks/."
        )
    picture = OUT / "patterns.png"
    pattern_picture.draw(picture)
    print(f"\nWhat each head reads: {picture}")


def show_progress(text: str, done: int, total: int) -> None:
    """A bar on the terminal; one line a step where the output is no terminal."""
    if sys.stdout.isatty():
        bar = "#" * (30 * done // total)
        print(f"\r[{bar:<30}] {done}/{total} {text:<40}", end="\n" if done == total else "", flush=True)
    else:
        print(f"[{done}/{total}] {text}", flush=True)


def print_table(rows: list) -> None:
    """method, density, computed, error, time against dense."""
    print(f"\n{'method':<20}{'density':>9}{'computed':>10}{'error':>9}{'seconds':>9}{'time/dense':>12}")
    for row in rows:
        print(
            f"{row.method:<20}{row.density:>9.3f}{row.computed:>10.3f}{row.error:>9.4f}{row.seconds:>9.2f}"
            f"{row.seconds / rows[0].seconds:>12.2f}"
        )


if __name__ == "__main__":
    main()
