# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the collection, and archives of the collections it depends on, which install without Galaxy."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys

import yaml

from sandbox import environment
from sandbox.settings import ANSIBLE_PACKAGE, CACHE, ROOT, key

# What users get, by its name at the top of the repository.
SHIPPED = {
    *("CHANGELOG.md", "CHANGELOG.rst", "LICENSE", "README.md", "changelogs", "docker", "docs", "inventory"),
    *("meta", "playbooks", "plugins", "requirements.txt", "roles"),
}


def files() -> list[pathlib.Path]:
    """Returns the files of the clone, relative to its root, except those that git ignores."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    named = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    return sorted({pathlib.Path(name) for name in named if name and (ROOT / name).is_symlink() | (ROOT / name).exists()})


def clone(target: pathlib.Path) -> pathlib.Path:
    """Copy the clone, including uncommitted changes, to another folder. Returns that folder."""
    for file in files():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file, follow_symlinks=False)
    return target


def build(target: pathlib.Path, source: pathlib.Path = ROOT) -> pathlib.Path:
    """Build the artifact of a collection in an empty folder. Returns its path."""
    command = [pathlib.Path(sys.prefix) / "bin" / "ansible-galaxy", "collection", "build", "--output-path", target, source]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (artifact,) = target.glob("*.tar.gz")
    return artifact


def dependency(name: str) -> pathlib.Path:
    """Returns an archive of one of the environment's collections. PyPI's package lacks files of its manifest, so it is rebuilt."""
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
