"""A real ComfyUI for each one that is found."""

from __future__ import annotations

from functools import cache

import pytest
from comfy_host import find_hosts, host_version
from real_host import FIRST_VERSION, METHODS, Host, is_old

HOSTS = [(path, host_version(path)) for path in find_hosts()]
FIXTURES = {
    "host": f"no ComfyUI {FIRST_VERSION} or newer found: set COMFYUI_PATH",
    "old_host": f"no ComfyUI before {FIRST_VERSION}, set COMFYUI_PATH to one for this",
}


def pytest_generate_tests(metafunc):
    """Runs each test that takes `host` once a ComfyUI, each that takes `old_host` once a ComfyUI that is too old."""
    for fixture in FIXTURES.keys() & set(metafunc.fixturenames):
        missing = pytest.param(None, marks=pytest.mark.skip(reason=FIXTURES[fixture]), id="no-host")
        found = [pytest.param(path, id=version) for path, version in HOSTS if is_old(version) == (fixture == "old_host")]
        metafunc.parametrize(fixture, found or [missing], indirect=True, scope="session")


@pytest.fixture(params=METHODS)
def method(request):
    """Each of the nodes that patch a model."""
    return request.param


@pytest.fixture(scope="session")
def host(request, tmp_path_factory):
    """A running `Host`."""
    made = Host(request.param, tmp_path_factory.mktemp("comfy"))
    with made.server:
        yield made


@pytest.fixture(scope="session")
def old_host(request, tmp_path_factory):
    """A running `Host` whose ComfyUI has no attention override; of the tiny checkpoints it loads Wan's."""
    made = Host(request.param, tmp_path_factory.mktemp("comfy"), ["wan21_t2v", "wan21_i2v"])
    with made.server:
        yield made


@pytest.fixture(scope="session")
def control(host):
    """control(family, **prompt_options) -> latent of the unpatched render, rendered once."""
    return cache(lambda family, **prompt_options: host.render(family, prompt_options=prompt_options)[0])
