# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Inputs of the cache's image: the sources, the tag, which is a hash of them, and the labels with their version.

Private to this collection.
"""

from __future__ import annotations

# An action plugin also uses this file, and has no module with a run_command.
# pylint: disable=ansible-bad-function
import contextlib
import hashlib
import json
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import typing as t

EXTRA_CA = "extra-ca.crt"
# Directories that the image does not need. The SBOMs have a separate build context.
_LEFT_OUT = ("sbom", "registry/internal/testutil")


def sources(context: pathlib.Path) -> list[pathlib.Path]:
    """Return the files for the image, sorted. Tests are left out, as in C(.dockerignore)."""
    left_out = {context / folder for folder in _LEFT_OUT}
    files = (file for file in context.rglob("*") if file.is_file() and not file.name.endswith("_test.go"))
    files = (file for file in files if not left_out & {*file.parents})
    return sorted(files, key=lambda file: file.relative_to(context).as_posix())


def tag(context: pathlib.Path, *others: str) -> str:
    """Return a tag that is the same for the same inputs: sources, and build arguments that matter.

    The additional CA certificates, the module proxy and other proxies do not matter, because go.sum fixes the content of modules.
    """
    total = hashlib.sha256()
    for file in sources(context):
        total.update(f"{file.relative_to(context).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    total.update("\n".join(others).encode())
    return f"b-{total.hexdigest()[:12]}"


def copy(context: pathlib.Path, target: pathlib.Path, ca: bytes) -> None:
    """Copy the sources to a build context, with the additional CA certificates."""
    for file in sources(context):
        copied = target / file.relative_to(context)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)
    (target / EXTRA_CA).write_bytes(ca)


def pack(context: pathlib.Path, file: str) -> None:
    """Write an archive of the sources, including those of the SBOMs, for a host that does not have them."""
    with tarfile.open(file, "w:gz") as archive:
        for folder in (context, context / "sbom"):
            for source in sources(folder):
                archive.add(source, source.relative_to(context).as_posix())


def unpack(file: str, target: str) -> None:
    """Extract an archive that C(pack) wrote."""
    # Python 3.12 warns without a filter. Some earlier releases do not support it.
    options: dict[str, t.Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(file) as archive:
        archive.extractall(target, **options)


@contextlib.contextmanager
def context(folder: str | None, archive: str | None) -> t.Iterator[pathlib.Path]:
    """Yield the directory of the sources. An archive is extracted to a temporary one."""
    if folder:
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="registry-cache-") as unpacked:
        unpack(t.cast(str, archive), unpacked)
        yield pathlib.Path(unpacked)


def labels(collection: pathlib.Path) -> dict[str, str]:
    """Return the labels version and revision.

    An installed collection has its version in MANIFEST.json. Its revision is the hash of its list of files. A clone has galaxy.yml and
    git.
    """
    try:
        manifest = json.loads((collection / "MANIFEST.json").read_text(encoding="utf-8"))
        return {
            "version": manifest["collection_info"]["version"],
            "revision": f"sha256:{manifest['file_manifest_file']['chksum_sha256']}",
        }
    except FileNotFoundError:
        version = re.search(r"(?m)^version: *(\S+)", (collection / "galaxy.yml").read_text(encoding="utf-8"))
    found = {"version": version[1] if version else ""}
    if (collection / ".git").exists():
        commit = _git(collection, "rev-parse", "HEAD")
        changed = _git(collection, "status", "--porcelain", "--", "docker")
        found["revision"] = commit + ("-dirty" if changed else "")
    return found


def _git(folder: pathlib.Path, *words: str) -> str:
    try:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def proxy_args(given: t.Mapping[str, t.Any] | None, environ: t.Mapping[str, str]) -> dict[str, str]:
    """Return proxies as build arguments, which docker and podman keep out of the image. The default is those in the environment."""
    found = {}
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        value = environ.get(name) or environ.get(name.upper()) if given is None else given.get(name)
        if value:
            found.update({name: value, name.upper(): value})
    return found
