"""ComfyUI's own page in a real Chromium, for each ComfyUI that is found and each of its ways to draw nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from comfy_host import find_hosts, host_version
from comfy_page import ComfyPage, chromium
from real_host import Host, is_old
from tiny_checkpoints import parts

OUT = Path(__file__).with_name("out")
VUE_SINCE = [0, 19]  # before, Vue nodes were an experiment that drew no panels of any pack


def pytest_generate_tests(metafunc):
    """Runs each test once a ComfyUI and renderer."""
    if "tab" not in metafunc.fixturenames:
        return
    params = [
        pytest.param((path, renderer), id=f"{version}-{renderer}")
        for path, version in ((path, host_version(path)) for path in find_hosts())
        for renderer in ("classic", "vue")
        if not is_old(version) and (renderer == "classic" or parts(version) >= VUE_SINCE)
    ]
    skip = pytest.mark.skip(reason="no ComfyUI with the attention override found: set COMFYUI_PATH")
    metafunc.parametrize("tab", params or [pytest.param(None, marks=skip, id="no-host")], indirect=True, scope="session")


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium without a network."""
    with chromium() as browser:
        if browser is None:
            pytest.skip("no Chromium found: install one, or set CHROMIUM to its path")
        yield browser


@pytest.fixture(scope="session")
def tab(request, browser, tmp_path_factory):
    """A `ComfyPage` on a running ComfyUI that has the tiny checkpoints."""
    path, renderer = request.param
    OUT.mkdir(exist_ok=True)
    with (host := Host(path, tmp_path_factory.mktemp("comfy"), ["wan21_t2v"])).server:
        tab = ComfyPage(browser, host, renderer == "vue", OUT)
        tab.open()
        assert tab.errors == []
        yield tab
        tab.page.context.close()


@pytest.fixture
def comfy(request, tab):
    """The tab with an empty workflow; a picture of its end is kept, and it may report no error."""
    tab.clear()
    tab.errors.clear()
    yield tab
    tab.page.screenshot(path=OUT / f"{request.node.name}.png")
    tab.page.keyboard.press("Escape")  # closes dialogs that a test left open
    assert tab.errors == []


@pytest.fixture
def node(comfy):
    """Id of an SVG2 node with its defaults, in view."""
    return comfy.add("SVG2Attention")
