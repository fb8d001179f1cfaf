# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection as users get it: built, and the collections it depends on as archives that install without Galaxy."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import yaml

from sandbox import environment
from sandbox.settings import ANSIBLE_PACKAGE, CACHE, ROOT, key


def files() -> list[pathlib.Path]:
    """Of the clone, below its root: what git tracks, or would if it were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted({pathlib.Path(name) for name in named if name and (ROOT / name).is_symlink() | (ROOT / name).exists()})


def clone(target: pathlib.Path) -> pathlib.Path:
    """The clone as it is now, uncommitted changes included, at another place."""
    for file in files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file, follow_symlinks=False)
    return target


def build(target: pathlib.Path, source: pathlib.Path = ROOT) -> pathlib.Path:
    """Build the artifact of a collection into a folder of its own."""
    command = [pathlib.Path(sys.prefix) / "bin" / "ansible-galaxy", "collection", "build", "--output-path", target, source]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (artifact,) = target.glob("*.tar.gz")
    return artifact


def dependency(name: str) -> pathlib.Path:
    """A collection of the environment as an archive. PyPI's package lacks files that its manifest names: it gets another."""
    target = CACHE / f"artifacts-{key(ANSIBLE_PACKAGE)}" / name
    if not target.exists():
        making = target.with_name(f"{name}.making")
        shutil.rmtree(making, ignore_errors=True)
        source, out = making / "source", making / "out"
        shutil.copytree(environment.collections() / "ansible_collections" / name.replace(".", "/"), source)
        information = json.loads((source / "MANIFEST.json").read_text())["collection_info"]
        fields = ("namespace", "name", "version", "authors", "readme", "dependencies")
        (source / "galaxy.yml").write_text(yaml.safe_dump({field: information[field] for field in fields}))
        build(out, source)
        out.rename(target)
        shutil.rmtree(making)
    (artifact,) = target.glob("*.tar.gz")
    return artifact
