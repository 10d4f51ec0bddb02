"""The nodes for raylight: SVG and SVG2 on RAY_ACTORS, Ray workers that sample one model together on a GPU each.

The nodes hand on proxies of the actors. A sampling call of a proxy is queued between two more: the worker patches its model,
samples and takes the patch off again. So a node that is bypassed or removed leaves no trace in the workers, which outlive it.
Ray itself is never imported here: the actors bring it along.
"""

from __future__ import annotations

import operator
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

from comfy_api.latest import io

from . import host
from .join import join
from .log import PREFIX, log
from .overrides import KEY
from .patch import keep, log_end
from .patch_node import PatchNode
from .settings import Settings
from .svg import SVGAttention
from .svg2 import SVG2Attention

PACK = str(Path(__file__).resolve().parents[1])
SAMPLING = ("common_ksampler", "custom_sampler", "custom_sampler_advanced")  # raylight's methods of an actor
ALIASES = ["raylight", "multi GPU"]  # without their sisters' own, whose search would find these nodes first
PATIENCE_S = 60  # for the figures of a run whose result is there


class RayNode(PatchNode):
    """A node that patches the model of every worker."""

    WHERE = "Place it between raylight's loader and its sampler, to render one video on several GPUs."

    @classmethod
    def subject(cls) -> tuple:
        """Input and output."""
        return (
            io.Custom("RAY_ACTORS").Input(
                "ray_actors",
                tooltip="Workers that hold a Wan or HunyuanVideo model: the output of raylight's Load Diffusion Model (Ray), "
                "or of one of its nodes that patch a model.",
            ),
            io.Custom("RAY_ACTORS").Output(display_name="RAY_ACTORS"),
        )

    @classmethod
    def execute(cls, ray_actors, **values) -> io.NodeOutput:
        """The actors' proxies."""
        values = cls.resolved(values)
        settings = Settings.of(cls.CONFIG, values, cls.hidden.unique_id)
        return io.NodeOutput(proxies(ray_actors, settings, values))


class SVGAttentionRay(RayNode, SVGAttention):
    """SVG on every worker."""

    ABOUT = {"node_id": "SVGAttentionRay", "display_name": "Sparse VideoGen (SVG, Ray)", "aliases": ALIASES}


class SVG2AttentionRay(RayNode, SVG2Attention):
    """SVG2 on every worker."""

    ABOUT = {"node_id": "SVG2AttentionRay", "display_name": "Sparse VideoGen 2 (SVG2, Ray)", "aliases": ALIASES}


def proxies(ray_actors: dict, settings: Settings, values: dict) -> dict:
    """RAY_ACTORS whose workers sample by `settings`, made of the node's widgets' `values`."""
    actors = [one.actor if isinstance(one, Proxy) else one for one in ray_actors["workers"]]  # another node of ours goes
    begin = in_worker("begin", settings.method, values, settings.node_id)
    crew = Crew(settings, len(actors))
    return {**ray_actors, "workers": [Proxy(actor, begin, crew) for actor in actors], KEY: crew}


def reports_of(ray_actors: dict) -> dict[str | None, dict]:
    """As `patch.reports_of`, of RAY_ACTORS; waits for the figures of a run that has just ended."""
    crew = ray_actors.get(KEY)
    return {} if crew is None else crew.wait()


def in_worker(task: str, *values) -> Callable:
    """A function of a ModelPatcher that runs `task` of ray_worker.py in a worker, where nobody can import this pack.

    Ray pickles a function within a function as a whole, with its plain values: the pack is loaded there by its folder.
    """
    folder = PACK

    def call(model):
        import importlib.util
        import sys

        name = "sparse_videogen"
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, f"{folder}/__init__.py", submodule_search_locations=[folder])
            pack = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(pack)
            sys.modules[name] = pack
        return getattr(importlib.import_module(f"{name}.nodes.ray_worker"), task)(model, *values)

    return call


class Proxy:
    """An actor whose sampling methods sample sparse; in all else, and to other processes, it is that actor."""

    def __init__(self, actor, begin: Callable, crew: Crew):
        self.actor, self._begin, self._crew = actor, begin, crew

    def __getattr__(self, name: str):
        method = getattr(self.actor, name)
        return SimpleNamespace(remote=partial(self._sample, method)) if name in SAMPLING else method

    def __reduce__(self):  # raylight's guiders carry the actors, and are sent to them
        return operator.getitem, ([self.actor], 0)

    def _sample(self, method, *args, **kwargs):
        """Queues a sampling call; the reference to its result."""
        self.actor.model_function_runner.remote(self._begin)
        try:
            result = method.remote(*args, **kwargs)
            figures = self.actor.model_function_runner_get_values.remote(in_worker("figures"))
        finally:
            self.actor.model_function_runner.remote(in_worker("end"))
        self._crew.follow(self, figures.future())
        return result


@dataclass(eq=False)
class Sampling:
    """One run of a sampler on all workers.

    Attributes:
        sampler: its node.
        figures: of each worker that was called, in order: what `ray_worker.figures` returns.
    """

    sampler: str | None
    figures: dict[Proxy, Future] = field(default_factory=dict)


class Crew:
    """What the workers of one node did, as one report a run."""

    def __init__(self, settings: Settings, size: int):
        self._settings, self._size = settings, size
        self._lock = threading.Lock()
        self._runs: list[Sampling] = []  # of which not all figures have come
        self._reports: dict[str | None, dict] = {}

    def __reduce__(self):  # nothing to other processes, as `Proxy`
        return type(None), ()

    def follow(self, proxy: Proxy, figures: Future) -> None:
        """Takes note of a worker's call: each has one a run."""
        with self._lock:
            if not self._runs or proxy in self._runs[-1].figures:
                self._runs.append(Sampling(host.executing_node()))
            run = self._runs[-1]
            run.figures[proxy] = figures
        figures.add_done_callback(lambda _: self._finish(run))

    def wait(self) -> dict[str | None, dict]:
        """The reports so far, by the sampler's node, the latest last; of a run that does not end, without what is missing."""
        with self._lock:
            runs = list(self._runs)
        wait([figures for run in runs for figures in run.figures.values()], PATIENCE_S)
        for run in runs:
            self._finish(run, late=True)
        return self._reports

    def _finish(self, run: Sampling, late: bool = False) -> None:
        """Makes the report of a run if all figures have come; if it is `late`, of those that have."""
        with self._lock:
            whole = len(run.figures) == self._size and all(figures.done() for figures in run.figures.values())
            if run not in self._runs or not (whole or late):
                return
            del self._runs[: self._runs.index(run) + 1]  # an earlier one was not sent to all workers
            answers = [_answer(figures) for figures in run.figures.values()]
            for level, line in dict.fromkeys(tuple(line) for answer in answers for line in answer.get("lines", ())):
                log.log(level, "%s", line)
            for worker, answer in enumerate(answers):
                if "error" in answer:
                    lost = f"worker {worker} sent no figures of its run: {answer['error']}"
                    log.warning("%s %s: %s", PREFIX, self._settings.method, lost)
            reports = [answer["report"] for answer in answers if answer.get("report") is not None]
            if not reports:
                return
            report = join(reports)
            keep(report, self._reports, run.sampler)
            log_end(report)  # within the lock: who waits for the report finds it told, too
            host.tell_page("run", report)


def _answer(figures: Future) -> dict:
    """What a worker sent, or the first line of the `error` for which it sent nothing."""
    if not figures.done():
        return {"error": f"no answer in {PATIENCE_S} s"}
    if figures.exception() is None:
        return figures.result()
    error = getattr(figures.exception(), "cause", None) or figures.exception()  # Ray's own say where it was raised, too
    return {"error": f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"}
