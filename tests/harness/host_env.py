"""Find ComfyUI checkouts and give each a Python environment that can start it.

The environment is a virtual environment nested in this checkout that also sees the packages of the
current interpreter, so torch is used as it is installed and never downloaded a second time.
"""

import hashlib
import importlib.metadata
import os
import re
import runpy
import subprocess
import sys
import venv
from pathlib import Path

from filelock import FileLock  # torch requires it

CHECKOUT = Path(__file__).absolute().parents[2]
DEFAULT_HOSTS = ("~/ComfyUI", "~/comfy/ComfyUI")
# torchvision is installed apart (its wheel demands its own torch), the rest is of no use headless.
LEFT_OUT = {"torch", "torchvision", "torchaudio", "comfyui-workflow-templates", "comfyui-embedded-docs"}
# Imported by 0.3.x without being listed: it used to come with transformers, and from 5.0 on does not.
UNLISTED = ["requests"]


def find_hosts() -> list[Path]:
    """ComfyUI checkouts to run against, each once, in order of preference.

    `$COMFYUI_PATH` (separated by the system's path separator) when it is set; else those that exist of
    the ComfyUI around this checkout, ~/ComfyUI and ~/comfy/ComfyUI.

    Raises:
        ValueError: an entry of `$COMFYUI_PATH` has no main.py.
    """
    named = [Path(entry).expanduser() for entry in os.environ.get("COMFYUI_PATH", "").split(os.pathsep) if entry]
    for path in named:
        if not (path / "main.py").is_file():
            raise ValueError(f"COMFYUI_PATH names {path}, which is no ComfyUI: it has no main.py")
    enclosing = [parent.parent for parent in CHECKOUT.parents if parent.name == "custom_nodes"]
    candidates = named or enclosing + [Path(entry).expanduser() for entry in DEFAULT_HOSTS]
    return list(dict.fromkeys(path.resolve() for path in candidates if (path / "main.py").is_file()))


def host_version(path: Path) -> str:
    """Version of the ComfyUI at `path`, such as "0.3.64", from its comfyui_version.py."""
    return runpy.run_path(str(Path(path) / "comfyui_version.py"))["__version__"]


def prepare_host(path: Path) -> Path:
    """Install what the ComfyUI at `path` needs; instant when that was done for the same requirements.

    Returns:
        The python executable to run it with, in `<this checkout>/.venv/hosts/<name>-<version>/`.
    Raises:
        RuntimeError: the torch is of an unknown kind, or pip failed.
    """
    path = Path(path).resolve()
    torch_version = importlib.metadata.version("torch")
    requirements = _requirements(path)
    torchvision = _torchvision_for(torch_version)
    folder = CHECKOUT / ".venv" / "hosts" / f"{path.name}-{host_version(path)}"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = folder / "requirements.sha256"
    parts = [sys.version, *_site_folders(), torch_version, torchvision, *requirements]
    wanted = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not (python.is_file() and stamp.is_file() and stamp.read_text() == wanted):
            _make(folder, python, torch_version, torchvision, requirements)
            stamp.write_text(wanted)
    return python


def _make(folder: Path, python: Path, torch_version: str, torchvision: str, requirements: list[str]) -> None:
    """The environment, anew."""
    venv.create(folder, with_pip=True, clear=True, symlinks=os.name != "nt")
    # This interpreter's packages are on its import path too; its own come first.
    purelib = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    (Path(purelib.strip()) / "outer_packages.pth").write_text("\n".join(_site_folders()) + "\n")
    constraints = folder / "constraints.txt"
    constraints.write_text(f"torch=={torch_version}\n")
    _pip_install(python, ["--no-deps", torchvision], folder)
    _pip_install(python, ["--constraint", str(constraints), *requirements], folder)


def _requirements(path: Path) -> list[str]:
    """Lines of the host's requirements.txt, less comments and what LEFT_OUT names, plus UNLISTED."""
    lines = (line.split("#")[0].strip() for line in (path / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and re.match(r"[\w-]+", line)[0].lower() not in LEFT_OUT] + UNLISTED


def _torchvision_for(torch_version: str) -> str:
    """Requirement on the torchvision of a torch release: 2.0 goes with 0.15, 2.13 with 0.28."""
    major, minor = (int(part) for part in torch_version.split(".")[:2])
    if major != 2:
        raise RuntimeError(f"torch {torch_version}: the fitting torchvision is known for torch 2 only")
    return f"torchvision==0.{minor + 15}.*"


def _site_folders() -> list[str]:
    """Folders of installed packages that the current interpreter sees."""
    return [str(Path(entry).resolve()) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")]


def _pip_install(python: Path, arguments: list[str], folder: Path) -> None:
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        last_lines = "\n".join(done.stdout.splitlines()[-15:])
        raise RuntimeError(
            f"{' '.join(command)}\nfailed:\n{last_lines}\n"
            f"Check the connection to the package index, delete {folder} and try again."
        )
