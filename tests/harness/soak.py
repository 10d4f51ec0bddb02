"""Many prompts in a row in the last ComfyUI that is found: `python tests/harness/soak.py [--prompts 420] [--minutes 20]`.

All families with both nodes and without, many settings and sizes, some interrupted, two that run out of memory.
Equal graphs must give equal latents to the last bit, the server's memory must not grow, its log must stay clean.
Exits with 1 if anything of this fails or time ran out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median

from comfy_host import PromptError, find_hosts, host_version
from real_host import METHODS, Host, reports
from tiny_checkpoints import FAMILIES, families_for

SIZES = ((192, 128, 17), (128, 128, 9), (256, 160, 9), (160, 96, 25), (96, 192, 13))
BATCHINGS = ({}, {"batch": 2}, {"cfg": 1.0}, {"negative_tokens": 30}, {"text_tokens": 40, "negative_tokens": 7})
SCHEDULES = {"start_percent": (0.0, 0.2, 0.4), "end_percent": (0.8, 1.0), "dense_blocks": ("", "0", "0-1")}
SETTINGS = {
    None: {},
    "SVGAttention": {"sparsity": (0.5, 0.7, 0.85), "sampled_rows": (16, 64), **SCHEDULES},
    "SVG2Attention": {
        **{"choose_by": ("density", "target_error", "top_p"), "density": (0.1, 0.4), "density_start": (1.0, 1.5)},
        **{"target_error": (0.02, 0.2), "top_p": (0.3, 0.9), "min_keep": (0.0, 0.1), "score_every": (1, 2)},
        **{"tail": ("second_order", "zero_order", "off"), "q_clusters": (4, 8, 16), "k_clusters": (12, 24, 48)},
        **{"recluster_every": (1, 2, 3), **SCHEDULES},
    },
}
ALL_STEPS = {"start_percent": 0.0, "dense_blocks": ""}
LONG = {"steps": 400, "width": 256, "height": 256}
INTERRUPT_EVERY = 15
# What a node says when memory runs out: SVG has nothing to take fewer of at a time and goes on dense, with a traceback.
OUT_OF_MEMORY = {
    "SVGAttention": "SVG failed; the rest of this run is dense",
    "SVG2Attention": "SVG2: out of memory: from here on fewer heads are computed at a time",
}
# Prompts before memory is measured: one of each family and a few more, so that what is loaded on first use is there.
SETTLED = 50
WINDOW = 10
GROWTH_LIMIT = 0.02
# Of the server: from 32 KiB on tensors are mapped and go back to the system when they are freed, and threads share one arena.
# The allocator's own habits, thresholds that adapt and an arena a thread, are as large as what is looked for.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "32768", "MALLOC_TRIM_THRESHOLD_": "32768"}


@dataclass(frozen=True)
class Case:
    """One prompt.

    Attributes:
        fault: "interrupt", "out_of_memory" or None.
        twin: the case whose latent this one's must equal, where it is not its own.
    """

    family: str
    method: str | None
    options: dict = field(default_factory=dict)
    inputs: dict = field(default_factory=dict)
    fault: str | None = None
    twin: Case | None = None

    def key(self) -> str:
        """The same for all cases that must give the same latent."""
        return self.twin.key() if self.twin else json.dumps(asdict(self), sort_keys=True)


def make_plan(prompts: int, families: list[str]) -> list[Case]:
    """The cases in their order, the same in every run: one of each family first, then rounds through all of them."""
    chooser = random.Random(0)
    graphs = [graph for family in families for graph in _graphs(family, chooser)]
    plan = [chooser.choice([graph for graph in graphs if graph.family == family]) for family in families]
    while len(plan) < prompts:
        plan += chooser.sample(graphs, len(graphs))
    del plan[prompts:]

    plain, sparse = Case("wan21_t2v", None), Case("wan21_t2v", "SVG2Attention", inputs=ALL_STEPS)
    starved = {"inputs": ALL_STEPS, "fault": "out_of_memory"}
    faults = [plain, Case("wan21_t2v", "SVGAttention", twin=plain, **starved), sparse, replace(sparse, twin=sparse, **starved)]
    middle = prompts // 2
    plan[middle : middle + len(faults)] = faults
    for i in range(min(INTERRUPT_EVERY, prompts) - 1, prompts, INTERRUPT_EVERY):
        if plan[i] not in faults:
            method = list(METHODS)[i // INTERRUPT_EVERY % 2]
            plan[i] = Case("wan21_t2v", method, LONG, ALL_STEPS, fault="interrupt")
    return plan


def _graphs(family: str, chooser: random.Random) -> list[Case]:
    """Of one family: sizes and batchings, each without a node, with SVG and with SVG2."""
    graphs = []
    batchings = [options for options in BATCHINGS if not (FAMILIES[family].one_video and "batch" in options)]
    for _ in range(2 if family in ("wan21_t2v", "hunyuan_t2v") else 1):
        width, height, frames = chooser.choice(SIZES)
        scale = FAMILIES[family].large
        size = {"width": width * scale, "height": height * scale, "frames": frames, "steps": chooser.choice((2, 3, 4))}
        options = {**size, **chooser.choice(batchings)}
        for method in SETTINGS:
            inputs = {name: chooser.choice(values) for name, values in SETTINGS[method].items()}
            graphs.append(Case(family, method, options, inputs))
    return graphs


class Soak:
    """Renders cases on a running host and keeps what they did: failures as sentences, resident bytes by prompt."""

    def __init__(self, host: Host):
        self.host = host
        self.failures: list[str] = []
        self.resident: list[int] = []
        self.counts: Counter = Counter()
        self.sparse_calls = self.tracebacks = 0
        self._first: dict[str, str] = {}
        self._log_start = len(host.server.log())

    def run(self, number: int, case: Case) -> None:
        """Renders a case; what is wrong goes into `failures`."""
        try:
            problem = self._interrupt(case) if case.fault == "interrupt" else self._render(case)
        except (PromptError, TimeoutError) as error:
            problem = str(error)
        if problem:
            self.failures.append(f"prompt {number}, {case.family}, {case.method}, {case.options}, {case.inputs}: {problem}")
        self.counts.update([str(case.method), case.fault or "finished"])
        status = Path(f"/proc/{self.host.server.pid}/status").read_text()
        self.resident.append(int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) << 10)

    def _render(self, case: Case) -> str | None:
        after = [("SVGTestOutOfMemory", {})] if case.fault else []
        out, result = self.host.render(case.family, case.method, prompt_options=case.options, after=after, **case.inputs)
        self.sparse_calls += sum(report["sparse_calls"] for report in reports(result))
        if case.fault:
            self.tracebacks += case.method == "SVGAttention"
            if (said := result.log.count(OUT_OF_MEMORY[case.method])) != 1:
                return f"'{OUT_OF_MEMORY[case.method]}' was said {said} times"
        if not out.isfinite().all():
            return "not finite"
        digest = hashlib.sha256(out.numpy().tobytes()).hexdigest()
        return None if self._first.setdefault(case.key(), digest) == digest else "differs from the first of its kind"

    def _interrupt(self, case: Case) -> str | None:
        """Lets some steps pass, then interrupts."""
        prompt = self.host.prompt(case.family, case.method, prompt_options=case.options, **case.inputs)
        try:
            self.host.server.interrupt_when(prompt, rf"\b[1-9]\d*/{case.options['steps']} ")
        except PromptError as error:
            return None if str(error).startswith("interrupted") else str(error)
        return "finished in spite of the interrupt"

    def judge(self, prompts: int) -> list[str]:
        """All that is wrong after the last case."""
        wrong = list(self.failures)
        if len(self.resident) < prompts:
            wrong.append(f"time was up after {len(self.resident)} of {prompts} prompts")
        tracebacks = self.host.server.log()[self._log_start :].count("Traceback (most recent call last)")
        if tracebacks != self.tracebacks:
            wrong.append(f"{tracebacks} tracebacks in the log, expected are {self.tracebacks}")
        if not self.sparse_calls:
            wrong.append("no call ran sparse")
        if (growth := self.growth()) > GROWTH_LIMIT:
            wrong.append(f"resident memory grew by {growth:.1%}, over {GROWTH_LIMIT:.0%}")
        return wrong

    def growth(self) -> float:
        """Of the resident memory from prompts 50 to 60 to the last 10, as a share; 0 where these would overlap."""
        if len(self.resident) < SETTLED + 2 * WINDOW:
            return 0.0
        return median(self.resident[-WINDOW:]) / median(self.resident[SETTLED : SETTLED + WINDOW]) - 1

    def summary(self) -> str:
        """What ran, and the memory."""
        lines = [f"{name}: {self.counts[name]}" for name in sorted(self.counts)]
        lines.append(f"{len(self._first)} graphs, {self.sparse_calls} sparse calls")
        lines.append(f"resident: {self.resident[-1] / 2**20:.1f} MiB at the end, {self.growth():+.2%}")
        return "\n".join(lines)


def soak(path: Path, prompts: int, minutes: float) -> list[str]:
    """Runs the plan on the ComfyUI at `path`, prints its progress and its summary, returns what was wrong."""
    families = families_for(host_version(path))
    chosen = dict.fromkeys(name for name in ("wan21_t2v", "hunyuan_t2v", *families) if not name.endswith("_low"))
    chosen = list(chosen)[: max(2, prompts // 10)]
    written = [name for name in families if name.replace("_low", "_high") in chosen or name in chosen]
    with tempfile.TemporaryDirectory() as folder, (host := Host(path, Path(folder), written)).server:
        begun, run = time.monotonic(), Soak(host)
        for number, case in enumerate(make_plan(prompts, chosen), 1):
            seconds = time.monotonic() - begun
            if seconds > 60 * minutes:
                break
            run.run(number, case)
            print(f"prompt {number}/{prompts}, {seconds:.0f} s, {run.resident[-1] / 2**20:.0f} MiB", flush=True)
        wrong = run.judge(prompts)
    print(f"\nComfyUI {host.version}, {len(run.resident)} prompts\n{run.summary()}")
    print("\n".join(wrong) or "nothing wrong")
    return wrong


def main() -> int:
    """0 if nothing was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=420, help="at least 12; a family for ten of them")
    parser.add_argument("--minutes", type=float, default=20, help="no prompt is started after these")
    arguments = parser.parse_args()
    if arguments.prompts < 12:
        parser.error("--prompts must be at least 12")
    os.environ.update(ALLOCATOR)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if not (hosts := find_hosts()):
        parser.error("no ComfyUI found: set COMFYUI_PATH")
    return int(bool(soak(hosts[-1], arguments.prompts, arguments.minutes)))


if __name__ == "__main__":
    sys.exit(main())
