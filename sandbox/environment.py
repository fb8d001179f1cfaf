# SPDX-License-Identifier: GPL-3.0-or-later
"""The Python environment of tests, demo and stand-in, with the collections ours depends on."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import zipfile

from . import debian
from .settings import ANSIBLE_PACKAGE, CACHE, COLLECTIONS, ROOT, SANDBOX, key
from .steps import step

_REQUIREMENTS = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt", SANDBOX / "google" / "requirements.txt")
VENV = CACHE / f"venv-{key(sys.version, ANSIBLE_PACKAGE, *COLLECTIONS, *_REQUIREMENTS)}"
PYTHON = VENV / "bin" / "python"


def ensure() -> None:
    """Make the environment unless one with these pins is there."""
    ready = VENV / "ready"
    if ready.exists():
        return
    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        debian.install("python3-venv")
    with step("Python environment", "the Python package index") as log:
        log.run(sys.executable, "-m", "venv", "--clear", VENV)
        pip = [PYTHON, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        log.run(*pip, "install", *[word for file in _REQUIREMENTS for word in ("--requirement", str(file))])
        log.run(*pip, "download", "--no-deps", "--dest", VENV / "wheel", ANSIBLE_PACKAGE)
        (wheel,) = (VENV / "wheel").iterdir()
        (packages,) = VENV.glob("lib/python*/site-packages")
        wanted = tuple(f"ansible_collections/{name}/" for name in COLLECTIONS)
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages, [name for name in archive.namelist() if name.startswith(wanted)])
        wheel.unlink()
        ready.touch()


def collections() -> pathlib.Path:
    """Where the environment keeps `ansible_collections`."""
    (packages,) = VENV.glob("lib/python*/site-packages")
    return packages
