"""A real ComfyUI for each one that is found."""

from __future__ import annotations

import pytest
from comfy_host import find_hosts, host_version
from real_host import FIRST_VERSION, Host, is_old

HOSTS = find_hosts()
OLD = "before the attention override: test_old_host.py is for it"
FIXTURES = {
    "host": "no ComfyUI found: set COMFYUI_PATH",
    "old_host": f"no ComfyUI before {FIRST_VERSION}, set COMFYUI_PATH to one for this",
}


def pytest_generate_tests(metafunc):
    """Runs each test that takes `host` once a ComfyUI, each that takes `old_host` once a ComfyUI that is too old."""
    for fixture, reason in FIXTURES.items():
        if fixture in metafunc.fixturenames:
            missing = pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-host")
            metafunc.parametrize(fixture, _hosts(fixture) or [missing], indirect=True, scope="session")


def _hosts(fixture: str) -> list:
    """A parameter for each ComfyUI that a test with this fixture shall run on, or skip with a reason."""
    hosts = [(path, host_version(path)) for path in HOSTS]
    if fixture == "old_host":
        return [pytest.param(path, id=version) for path, version in hosts if is_old(version)]
    skip = {version: [pytest.mark.skip(reason=f"ComfyUI {version} is from {OLD}")] for _, version in hosts if is_old(version)}
    return [pytest.param(path, id=version, marks=skip.get(version, ())) for path, version in hosts]


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
    known = {}

    def render(family: str, **prompt_options):
        key = (family, tuple(sorted(prompt_options.items())))
        if key not in known:
            known[key] = host.render(family, prompt_options=prompt_options)[0]
        return known[key]

    return render
