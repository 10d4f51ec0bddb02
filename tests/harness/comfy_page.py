"""ComfyUI's own page in a real Chromium, as the browser tests use it."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from comfy_host import find_hosts
from playwright.sync_api import sync_playwright
from real_host import Host

HELPERS = Path(__file__).with_name("page_helpers.js").read_text()
NOTHING = {"nodes": [], "links": [], "groups": [], "config": {}, "extra": {}}
EMPTY = {"last_node_id": 0, "last_link_id": 0, "version": 0.4, **NOTHING}
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Locale": "en",
    "Comfy.RightSidePanel.IsOpen": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.ColorPalette": "dark",
}
# What a page of a clean ComfyUI says without any pack.
KNOWN_NOISE = re.compile(
    r"status of 404 .*(user\.css|userdata|favicon|templates)"  # of a fresh user folder, without the packages of the host's own
    r"|status of 404 .*/docs/\w+/en\.md"  # of a help text in one language, asked for before the one for all
    r"|reading 'id'|modelToNode|cleanup event listeners for graph"  # 0.3.64
    r"|graph accessed before initialization|Invalid layout total size"
    r"|huggingface\.co|api\.comfy\.org"  # no network
)
READY = """() => window.app?.canvas && app.extensionManager?.workflow?.activeWorkflow && !app.extensionManager.spinner
    && LiteGraph.registered_node_types.KSampler"""
SETTLED = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => requestAnimationFrame(done))))"
MARGIN = 12  # pixels around a node in its picture
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ("--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1")


@contextmanager
def chromium() -> Iterator:
    """A headless Chromium without a network: the one named by $CHROMIUM, an installed one, or Playwright's own; or None."""
    with sync_playwright() as playwright:
        installed = filter(None, map(shutil.which, BROWSERS))
        own = playwright.chromium.executable_path
        path = os.environ.get("CHROMIUM") or next(installed, own if Path(own).is_file() else None)
        browser = path and playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield browser
        if browser:
            browser.close()


@contextmanager
def newest_page(packs: Sequence[Path] = ()) -> Iterator[ComfyPage]:
    """A tab with Vue nodes, not yet opened, on the last ComfyUI that is found; `packs` of nodes beside our own."""
    with tempfile.TemporaryDirectory(prefix="sparse_videogen_") as folder, chromium() as browser:
        host = Host(find_hosts()[-1], Path(folder), [])
        host.server.packs += packs
        with host.server:
            yield ComfyPage(browser, host, vue=True, out=Path(folder))


class ComfyPage:
    """One tab on a running host.

    Args:
        vue: draw the nodes with Vue instead of on the classic canvas.
        out: folder for pictures.
    Attributes:
        page: Playwright's.
        errors: errors that the page reported, less what a clean ComfyUI reports.
    """

    def __init__(self, browser, host: Host, vue: bool, out: Path):
        self.host, self.vue, self.out = host, vue, out
        self.errors: list[str] = []
        self.page = browser.new_context(viewport={"width": 1500, "height": 1100}, device_scale_factor=1.5).new_page()
        self.page.set_default_timeout(30_000)
        self.page.add_init_script(HELPERS)
        self.page.on("console", lambda message: message.type == "error" and self._error(f"{message.text} {message.location}"))
        self.page.on("pageerror", lambda error: self._error(f"{error.message}\n{error.stack}"))

    def open(self) -> None:
        """Loads the page anew, with the tests' settings, and waits until it can be used."""
        self.set(**SETTINGS, **{"Comfy.VueNodes.Enabled": self.vue})
        self.page.goto(self.host.server.url)
        self._wait_until_ready()

    def reload(self) -> None:
        """As a person does with F5."""
        self.page.reload()
        self._wait_until_ready()

    def set(self, **settings) -> None:
        """Writes settings on the server; the page reads them when it is opened."""
        self.page.request.post(f"{self.host.server.url}/settings", data=settings, fail_on_status_code=True)

    def clear(self) -> None:
        """An empty workflow in the open tab."""
        self.page.evaluate("empty => app.loadGraphData(empty, true, true, app.extensionManager.workflow.activeWorkflow)", EMPTY)
        self.settle()

    def load(self, workflow: dict) -> None:
        """Loads a workflow as if its file were opened."""
        self.page.evaluate("workflow => app.loadGraphData(workflow)", workflow)
        self.settle()

    def __call__(self, function: str, *args):
        """Result of a function of page_helpers.js."""
        return self.page.evaluate(f"args => tests.{function}(...args)", list(args))

    def evaluate(self, script: str, argument=None):
        """Result of a script in the page."""
        return self.page.evaluate(script, argument)

    def settle(self) -> None:
        """Waits until what was changed is drawn."""
        self.page.evaluate(SETTLED)

    def select(self, node_id: str) -> None:
        """A click on the node's title, in the middle of the window."""
        self._bring(node_id)
        box = self("box", node_id)
        self.page.mouse.click(box["x"] + box["width"] / 3, box["y"] + 15)
        self.page.wait_for_function("id => tests.node(id).selected", arg=node_id)

    def choose(self, node_id: str, widget: str, option: str) -> None:
        """Picks from a combo by hand."""
        self._bring(node_id)
        if self.vue:
            self.page.locator(f'[data-node-id="{node_id}"] [role=combobox][aria-label="{widget}"]').click()
            self.page.get_by_role("option", name=option, exact=True).click()
            self.page.get_by_role("listbox").wait_for(state="hidden")  # while it fades it takes the clicks for what is below
        else:
            self.page.mouse.click(*self("widgetPoint", node_id, widget))
            self.page.locator(".litecontextmenu .litemenu-entry").get_by_text(option, exact=True).click()
        self.settle()

    def enter(self, node_id: str, widget: str, value: float) -> None:
        """Types a number by hand."""
        self._bring(node_id)
        if self.vue:
            box = self.page.locator(f'[data-node-id="{node_id}"] [aria-label="{widget}"]:not([role=option])').bounding_box()
            self.page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            self.page.keyboard.press("Control+a")
            self.page.keyboard.type(str(value))
            self.page.keyboard.press("Enter")
            self.page.evaluate("() => document.activeElement.blur()")
        else:
            self.page.mouse.click(*self("widgetPoint", node_id, widget))
            self.page.locator(".graphdialog input").fill(str(value))
            self.page.keyboard.press("Enter")
        self.settle()

    def add(self, kind: str) -> str:
        """Id of a new node, in the middle of the window."""
        (node,) = self("build", {"new": {"class_type": kind, "inputs": {}}}).values()
        self("centre", node)
        return node

    def panel(self, node_id: str) -> list[str] | None:
        """The lines of the panel under a node; None where there is none."""
        return self("panel", node_id)

    def wait_for_panel(self, node_id: str, lines: list[str]) -> None:
        """Until the panel under a node shows this and nothing else."""
        self.page.wait_for_function("([id, lines]) => String(tests.panel(id)) === String(lines)", arg=[node_id, lines])

    def saved(self) -> dict:
        """The workflow as it would be saved."""
        return self.page.evaluate("() => app.graph.serialize()")

    def picture(self, name: str, node_id: str) -> Path:
        """Saves what a node looks like."""
        self._bring(node_id)
        self.page.mouse.move(5, 5)
        self.page.wait_for_timeout(700)  # the host's own transitions have no event
        path = self.out / f"{name}.png"
        box = self("box", node_id)
        clip = {"x": box["x"] - MARGIN, "y": box["y"] - MARGIN}
        clip |= {"width": box["width"] + 2 * MARGIN, "height": box["height"] + 2 * MARGIN}
        self.page.screenshot(path=path, clip=clip)
        return path

    def _bring(self, node_id: str) -> None:
        self("centre", node_id)
        self.settle()

    def _wait_until_ready(self) -> None:
        self.page.wait_for_function(READY, timeout=120_000)

    def _error(self, text: str) -> None:
        if not KNOWN_NOISE.search(text):
            self.errors.append(text)
