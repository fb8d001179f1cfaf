# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python environment of tests, demo and emulator, with the collections ours depends on."""

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
    """The system's Python if it is recent enough, else the one that runs this; and its version."""
    # A distribution's build is optimised: pyenv's takes a third longer for what Ansible does most, which is to compile.
    python = _SYSTEM_PYTHON
    if not pathlib.Path(python).exists() or _version(python) < (3, 11):
        python = sys.executable
    return python, ".".join(map(str, _version(python)))


INTERPRETER, _VERSION = _interpreter()
VENV = CACHE / f"venv-{key(_VERSION, ANSIBLE_PACKAGE, *COLLECTIONS, *_REQUIREMENTS)}"
PYTHON = VENV / "bin" / "python"


def ensure() -> None:
    """Make the environment unless one with these pins is there."""
    _make(VENV, "Python environment", INTERPRETER, _words(_REQUIREMENTS), ANSIBLE_PACKAGE, COLLECTIONS)


def further(
    name: str,
    requirements: Sequence[pathlib.Path] = (),
    packages: Sequence[str] = (),
    python: str = INTERPRETER,
    ansible: str = "",
    collections: Sequence[str] = (),
) -> pathlib.Path:
    """The folder of an environment for what does not go with the rest, made unless it is there.

    :param requirements: files that pip reads.
    :param packages: what is installed beside them.
    :param python: the interpreter it is made with.
    :param ansible: the package out of which the collections are taken.
    """
    version = subprocess.run([python, "--version"], check=True, capture_output=True, text=True).stdout
    target = CACHE / f"venv-{name}-{key(version, ansible, *collections, *packages, *requirements)}"
    _make(target, f"Python environment: {name}", python, [*_words(requirements), *packages], ansible, collections)
    return target


def users() -> pathlib.Path:
    """What a user installs, or an execution environment has: ansible-core and what requirements.txt lists, no more."""
    core = next(line for line in _REQUIREMENTS[1].read_text().splitlines() if line.startswith("ansible-core=="))
    return further("users", _REQUIREMENTS[:1], [core])


def trial() -> pathlib.Path:
    """What `make try` needs: ansible-core for the collection's own modules, and the Google emulator."""
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
        # Not quiet: the heartbeats show what it says.
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
    """Where an environment keeps `ansible_collections`."""
    (packages,) = venv.glob("lib/python*/site-packages")
    return packages
