"""Run a ComfyUI headless on the CPU and send it prompts: the harness of the demo and the host tests."""

import json
import os
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import websocket
from host_env import find_hosts, host_version, prepare_host
from run_result import PromptError, RunResult, describe_failure, describe_refusal, latent

__all__ = ["ComfyServer", "PromptError", "RunResult", "find_hosts", "host_version", "latent", "prepare_host"]

HEADLESS = ("--listen", "127.0.0.1", "--disable-auto-launch", "--disable-api-nodes", "--cpu", "--use-pytorch-cross-attention")
START_TIMEOUT_S, PROMPT_TIMEOUT_S = 180, 600


class ComfyServer:
    """A ComfyUI process on a free loopback port, started by `with` or `start()`.

    Args:
        path: the ComfyUI checkout.
        base_dir: folder for models, custom_nodes, input, output and user, created where missing; for one
            server at a time, since the host locks its database there.
        packs: folders of custom node packs, linked into `base_dir/custom_nodes` by their own names; links that
            an earlier server left there are removed.
        cached: nodes whose inputs did not change are not executed again, as the host does by itself.
    """

    def __init__(self, path: Path, base_dir: Path, packs: list[Path], cached: bool = False):
        self.path = Path(path).resolve()
        self.base_dir = Path(base_dir).resolve()
        self.packs = [Path(pack).absolute() for pack in packs]
        self.cache_args = () if cached else ("--cache-none",)
        self.client_id = uuid.uuid4().hex
        self._process = self._socket = None
        self._events = []  # (type, data) in order of arrival; guarded by _arrived
        self._arrived = threading.Condition()
        self._connected = False
        self._submitted = {}  # prompt id -> length of the log, and of the events, at that time

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def start(self) -> None:
        """Start the process and wait until it answers.

        Raises:
            RuntimeError: it ended or did not answer in time; the message holds the end of its log.
        """
        python = prepare_host(self.path)
        self._link_packs()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._log_path = self.base_dir / f"server-{self.port}.log"
        database = f"sqlite:///{self.base_dir / 'user' / 'comfyui.db'}"
        places = ("--port", self.port, "--base-directory", self.base_dir, "--database-url", database)
        launcher = Path(__file__).with_name("host_launcher.py")
        command = [python, launcher, self.path, *HEADLESS, *places, *self.cache_args]
        with open(self._log_path, "w") as log:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                cwd=self.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # The tests' own interpreter mode must not reach the server: there it would stand in for a GPU.
                env={**{k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}, "PYTHONUNBUFFERED": "1"},
            )
        try:
            self._wait_until_up()
            self._socket = websocket.create_connection(f"ws://127.0.0.1:{self.port}/ws?clientId={self.client_id}")
            self._connected = True
            threading.Thread(target=self._receive, args=(self._socket,), daemon=True).start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process; harmless when it has ended already."""
        if self._socket:
            self._socket.close()
            self._socket = None
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    @property
    def pid(self) -> int:
        """Process id, while it runs."""
        return self._process.pid

    def log(self) -> str:
        """What the server has written so far."""
        return self._log_path.read_text(errors="replace")

    def object_info(self) -> dict:
        """The server's /object_info: node id -> inputs and outputs."""
        return self._get("/object_info")

    def queue(self, prompt: dict) -> RunResult:
        """Run one prompt to its end; see `submit` and `wait` for what it raises."""
        return self.wait(self.submit(prompt))

    def submit(self, prompt: dict) -> str:
        """Queue a prompt in API format and return its id.

        Raises:
            PromptError: the server's validation refused it.
        """
        log_length, events = len(self.log()), len(self._events)
        try:
            prompt_id = self._post("/prompt", {"prompt": prompt, "client_id": self.client_id})["prompt_id"]
        except urllib.error.HTTPError as error:
            details = json.loads(error.read())
            raise PromptError(describe_refusal(details), details) from None
        self._submitted[prompt_id] = log_length, events
        return prompt_id

    def wait(self, prompt_id: str) -> RunResult:
        """Wait for a submitted prompt to end.

        Raises:
            PromptError: a node failed or the run was interrupted.
            TimeoutError: it has not ended after PROMPT_TIMEOUT_S; it runs on.
            RuntimeError: the server went away.
        """
        events = self._wait_for_end(prompt_id)
        entry = self._get(f"/history/{prompt_id}")[prompt_id]
        messages = dict(entry["status"]["messages"])
        stamps = [data["timestamp"] for data in messages.values() if "timestamp" in data]
        shown = {data["node"]: data["output"] for name, data in events if name == "executed"}
        result = RunResult(
            {**shown, **entry["outputs"]},
            (max(stamps) - min(stamps)) / 1000,
            events,
            self.log()[self._submitted[prompt_id][0] :],
            self.base_dir,
        )
        for failure in ("execution_error", "execution_interrupted"):
            if failure in messages:
                raise PromptError(describe_failure(failure, messages[failure]), messages[failure], result)
        return result

    def interrupt_when(self, prompt: dict, pattern: str) -> None:
        """Queue a prompt, stop it when its log has the pattern, and wait for its end; raises as `wait`."""
        logged, prompt_id = len(self.log()), self.submit(prompt)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not re.search(pattern, self.log()[logged:]) and time.monotonic() < deadline:
            time.sleep(0.05)
        self._post("/interrupt", {})
        self.wait(prompt_id)

    def free_memory(self) -> None:
        """Unload all models before the next prompt."""
        self._post("/free", {"unload_models": True, "free_memory": True})

    def _link_packs(self) -> None:
        for name in ("models/diffusion_models", "custom_nodes", "input", "output", "user"):
            (self.base_dir / name).mkdir(parents=True, exist_ok=True)
        folder = self.base_dir / "custom_nodes"
        for stale in filter(Path.is_symlink, folder.iterdir()):
            stale.unlink()
        for pack in self.packs:
            (folder / pack.name).symlink_to(pack, target_is_directory=True)

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self._get("/system_stats")
                return
            except OSError:
                time.sleep(0.2)
        self._gone("ended" if self._process.poll() is not None else f"did not answer in {START_TIMEOUT_S} s")

    def _receive(self, connection) -> None:
        try:
            while True:
                message = connection.recv()
                if isinstance(message, str):  # binary ones are previews and texts
                    event = json.loads(message)
                    with self._arrived:
                        self._events.append((event["type"], event.get("data") or {}))
                        self._arrived.notify_all()
        except (OSError, ValueError, websocket.WebSocketException):
            with self._arrived:
                self._connected = False
                self._arrived.notify_all()

    def _wait_for_end(self, prompt_id: str) -> list:
        """The events from the start of a prompt to the message that says that nothing runs any more."""
        _, submitted = self._submitted[prompt_id]

        def place(wanted: str, **fields) -> int | None:
            fields["prompt_id"] = prompt_id
            events = enumerate(self._events[submitted:], submitted)
            return next((i for i, (kind, data) in events if kind == wanted and fields.items() <= data.items()), None)

        with self._arrived:
            self._arrived.wait_for(lambda: not self._connected or place("executing", node=None) is not None, PROMPT_TIMEOUT_S)
            end = place("executing", node=None)
            if end is not None:
                return self._events[place("execution_start") : end]
        if not self._connected:
            self._gone("went away")
        raise TimeoutError(f"prompt {prompt_id} has not ended after {PROMPT_TIMEOUT_S} s")

    def _gone(self, how: str) -> None:
        tail = "\n".join(self.log().splitlines()[-40:])
        raise RuntimeError(f"ComfyUI at {self.path} {how}; the end of {self._log_path}:\n{tail}")

    def _get(self, route: str):
        with urllib.request.urlopen(self.url + route, timeout=60) as reply:
            return json.load(reply)

    def _post(self, route: str, data: dict):
        request = urllib.request.Request(self.url + route, json.dumps(data).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            body = reply.read()
        return json.loads(body) if body else None
