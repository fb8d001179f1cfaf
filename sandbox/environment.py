# SPDX-License-Identifier: GPL-3.0-or-later
"""Python environments of tests, demo and emulator, with the Ansible collections that this one depends on."""

from __future__ import annotations

import functools
import pathlib
import subprocess
import sys
import zipfile
from collections.abc import Sequence

from . import debian
from .settings import ANSIBLE_PACKAGE, CACHE, COLLECTIONS, ROOT, SANDBOX, key
from .steps import alone, step

_REQUIREMENTS = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt", SANDBOX / "google" / "requirements.txt")
_SYSTEM_PYTHON = "/usr/bin/python3"


@functools.cache
def _version(python: str) -> tuple[int, ...]:
    argv = [python, "-c", "import sys; print(*sys.version_info[:3])"]
    found = subprocess.run(argv, check=False, capture_output=True, text=True).stdout
    return tuple(map(int, found.split()))


def _interpreter() -> tuple[str, str]:
    """Returns the interpreter for environments and its version: the system's Python if recent enough, else the running one."""
    # Distributions optimise their Python: pyenv's build takes a third longer to compile, which Ansible does most of the time.
    python = _SYSTEM_PYTHON
    if not pathlib.Path(python).exists() or _version(python) < (3, 11):
        python = sys.executable
    return python, ".".join(map(str, _version(python)))


INTERPRETER, _VERSION = _interpreter()
VENV = CACHE / f"venv-{key(_VERSION, ANSIBLE_PACKAGE, *COLLECTIONS, *_REQUIREMENTS)}"
PYTHON = VENV / "bin" / "python"


def ensure() -> None:
    """Make the environment, unless one with these pins exists."""
    _make(VENV, "Python environment", INTERPRETER, _words(_REQUIREMENTS), ANSIBLE_PACKAGE, COLLECTIONS)


def further(
    name: str,
    requirements: Sequence[pathlib.Path] = (),
    packages: Sequence[str] = (),
    python: str = INTERPRETER,
    ansible: str = "",
    collections: Sequence[str] = (),
) -> pathlib.Path:
    """Returns the folder of a separate environment, and makes it unless it exists.

    :param requirements: requirements files for pip.
    :param packages: further packages to install.
    :param python: the interpreter that makes it.
    :param ansible: the PyPI package that contains the collections.
    """
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout
    target = CACHE / f"venv-{name}-{key(version, ansible, *collections, *packages, *requirements)}"
    _make(target, f"Python environment: {name}", python, [*_words(requirements), *packages], ansible, collections)
    return target


def users() -> pathlib.Path:
    """Returns an environment as users and execution environments have it: only ansible-core and requirements.txt."""
    return further("users", _REQUIREMENTS[:1], [_core()])


def wheels() -> pathlib.Path:
    """Returns a folder with wheels of ansible-core and requirements.txt, and of what they need."""
    folder = users() / "wheels"
    with alone(f"{folder.parent.name}-wheels"):
        if not (folder / "ready").exists():
            with step("wheels of ansible-core and requirements.txt", "the Python package index") as log:
                pip = [folder.parent / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
                log.run(*pip, "wheel", "--progress-bar", "off", "--wheel-dir", folder, *_words(_REQUIREMENTS[:1]), _core())
            (folder / "ready").touch()
    return folder


def _core() -> str:
    """Returns the pin of ansible-core."""
    return next(line for line in _REQUIREMENTS[1].read_text().splitlines() if line.startswith("ansible-core=="))


def trial() -> pathlib.Path:
    """Returns an environment for `make try`: ansible-core for the collection's modules, and the Google emulator."""
    if (VENV / "ready").exists():
        return VENV
    pins = [line for line in _REQUIREMENTS[1].read_text().splitlines() if line.partition("==")[0] in ("ansible-core", "bcrypt")]
    return further("trial", _REQUIREMENTS[2:], pins)


def _words(files: Sequence[pathlib.Path]) -> list[str]:
    return [word for file in files for word in ("--requirement", str(file))]


def _make(
    venv: pathlib.Path, title: str, python: str, words: Sequence[str], ansible: str, collections: Sequence[str]
) -> None:
    ready = venv / "ready"
    if ready.exists():
        return
    with alone(venv.name):
        if not ready.exists():
            _fill(venv, title, python, words, ansible, collections)
            ready.touch()


def _fill(
    venv: pathlib.Path, title: str, python: str, words: Sequence[str], ansible: str, collections: Sequence[str]
) -> None:
    if subprocess.run([python, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        debian.install("python3-venv")
    with step(title, "the Python package index") as log:
        log.run(python, "-m", "venv", "--clear", venv)
        # Not quiet, since heartbeats show the output.
        pip = [venv / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
        log.run(*pip, "install", "--progress-bar", "off", *words)
        if collections:
            log.run(*pip, "download", "--progress-bar", "off", "--no-deps", "--dest", venv / "wheel", ansible)
            (wheel,) = (venv / "wheel").iterdir()
            (packages,) = venv.glob("lib/python*/site-packages")
            wanted = tuple(f"ansible_collections/{name}/" for name in collections)
            log.note("unpacking the Ansible collections")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(packages, [name for name in archive.namelist() if name.startswith(wanted)])
            wheel.unlink()


def collections(venv: pathlib.Path = VENV) -> pathlib.Path:
    """Returns the folder of an environment that contains `ansible_collections`."""
    (packages,) = venv.glob("lib/python*/site-packages")
    return packages
