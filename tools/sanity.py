# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs `ansible-test sanity` on the built artifact, unpacked into a collection tree with its dependencies."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile

from sandbox import environment
from sandbox.settings import CACHE, ROOT

from . import artifact

# ansible-test would download get-pip for its environments; the pip bundled with the interpreter works as well.
_GET_PIP = """import ensurepip
ensurepip.bootstrap()
"""


def _home(venv: pathlib.Path) -> pathlib.Path:
    home = CACHE / "ansible-test"
    requirements = environment.collections(venv) / "ansible_test" / "_internal" / "python_requirements.py"
    versions = set(re.findall(r"\bpip='([0-9.]+)'", requirements.read_text()))
    # Older versions use another name.
    versions |= set(re.findall(r"pip_version = '([0-9.]+)'", requirements.read_text()))
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in versions:
        (cache / f"get_pip_{version.replace('.', '_')}.py").write_text(_GET_PIP)
    return home


def run(venv: pathlib.Path, python: str, seconds: float | None = None) -> tuple[bool, str, int]:
    """Run all sanity tests of an environment's ansible-core. Returns whether they passed, the output, and how many ran."""
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder) / "ansible_collections"
        ours = tree / "pullthrough" / "registry_cache"
        ours.mkdir(parents=True)
        subprocess.run(["tar", "--extract", "--file", artifact.build(pathlib.Path(folder)), "--directory", ours], check=True)
        # The artifact does not include the tests' settings, which sanity reads.
        (ours / "tests" / "sanity").mkdir(parents=True)
        (ours / "tests" / "config.yml").write_text((ROOT / "tests" / "config.yml").read_text())
        for file in (ROOT / "tests" / "sanity").glob("ignore-*.txt"):
            (ours / "tests" / "sanity" / file.name).write_text(file.read_text())
        for name in ("kubernetes", "google"):
            (tree / name).symlink_to(environment.collections(venv) / "ansible_collections" / name)
        result = subprocess.run(
            [venv / "bin" / "ansible-test", "sanity", "--color", "no", "--python", python, "--requirements"],
            cwd=ours,
            env={**os.environ, "HOME": str(_home(venv)), "PATH": f"{venv}/bin:{os.environ['PATH']}"},
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=seconds,
        )
    ran = len(re.findall(r"^Running sanity test ", result.stdout, re.MULTILINE))
    return result.returncode == 0 and ran > 0, result.stdout, ran


def main() -> None:
    passed, report, ran = run(environment.VENV, f"{sys.version_info.major}.{sys.version_info.minor}")
    print(report, flush=True)
    print(f"{ran if passed else 0} passed, {int(not passed)} failed in 0s")
    sys.exit(not passed)


if __name__ == "__main__":
    main()
