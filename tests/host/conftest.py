"""A real ComfyUI for each one that is found."""

from __future__ import annotations

import pytest
from comfy_host import find_hosts, host_version
from real_host import Host

HOSTS = find_hosts()


def pytest_generate_tests(metafunc):
    """Runs each test that takes `host` once a ComfyUI."""
    if "host" in metafunc.fixturenames:
        missing = pytest.param(None, marks=pytest.mark.skip(reason="no ComfyUI found: set COMFYUI_PATH"), id="no-host")
        hosts = [pytest.param(path, id=host_version(path)) for path in HOSTS] or [missing]
        metafunc.parametrize("host", hosts, indirect=True, scope="session")


@pytest.fixture(scope="session")
def host(request, tmp_path_factory):
    """A running `Host`."""
    made = Host(request.param, tmp_path_factory.mktemp("comfy"))
    with made.server:
        yield made


@pytest.fixture(scope="session")
def control(host):
    """control(family, **prompt_options) -> latent of the unpatched render, rendered once."""
    known = {}

    def render(family: str, **prompt_options):
        key = (family, tuple(sorted(prompt_options.items())))
        if key not in known:
            known[key] = host.render(family, prompt_options=prompt_options)[0]
        return known[key]

    return render
