# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the cache's image is built from: the sources, the tag that is a hash of them, the labels that tell where they are from.

Private to this collection.
"""

from __future__ import annotations

# An action plugin asks too: there is no module whose run_command could be called.
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
# What no program of the image imports; the SBOMs have a context of their own.
_LEFT_OUT = ("sbom", "registry/internal/testutil")


def sources(context: pathlib.Path) -> list[pathlib.Path]:
    """The files that go into the image, sorted: all but tests, as C(.dockerignore) has it."""
    left_out = {context / folder for folder in _LEFT_OUT}
    files = (file for file in context.rglob("*") if file.is_file() and not file.name.endswith("_test.go"))
    files = (file for file in files if not left_out & {*file.parents})
    return sorted(files, key=lambda file: file.relative_to(context).as_posix())


def tag(context: pathlib.Path, *others: str) -> str:
    """A tag that is the same for the same inputs: sources and build arguments that matter.

    Not the extra CA certificates, the module proxy and other proxies: they lead to the same modules, as go.sum has them.
    """
    total = hashlib.sha256()
    for file in sources(context):
        total.update(f"{file.relative_to(context).as_posix()} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    total.update("\n".join(others).encode())
    return f"b-{total.hexdigest()[:12]}"


def copy(context: pathlib.Path, target: pathlib.Path, ca: bytes) -> None:
    """A build context of the sources, with the extra CA certificates in it."""
    for file in sources(context):
        copied = target / file.relative_to(context)
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copied)
    (target / EXTRA_CA).write_bytes(ca)


def pack(context: pathlib.Path, file: str) -> None:
    """Write an archive of the sources and of those of the SBOMs, for a host that lacks them."""
    with tarfile.open(file, "w:gz") as archive:
        for folder in (context, context / "sbom"):
            for source in sources(folder):
                archive.add(source, source.relative_to(context).as_posix())


def unpack(file: str, target: str) -> None:
    """Extract what C(pack) has written."""
    # Python 3.12 warns without it, and some releases of Python before lack it.
    options: dict[str, t.Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(file) as archive:
        archive.extractall(target, **options)


@contextlib.contextmanager
def context(folder: str | None, archive: str | None) -> t.Iterator[pathlib.Path]:
    """The folder of the sources, for a while if they come in an archive."""
    if folder:
        yield pathlib.Path(folder)
        return
    with tempfile.TemporaryDirectory(prefix="registry-cache-") as unpacked:
        unpack(t.cast(str, archive), unpacked)
        yield pathlib.Path(unpacked)


def labels(collection: pathlib.Path) -> dict[str, str]:
    """Labels version and revision.

    A built collection has its version in MANIFEST.json, and in the place of a commit the hash of its list of files. A
    clone has galaxy.yml and git.
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
    """Proxies as build arguments, which docker and podman keep out of the image: those given, else the environment's."""
    found = {}
    for name in ("http_proxy", "https_proxy", "no_proxy"):
        value = environ.get(name) or environ.get(name.upper()) if given is None else given.get(name)
        if value:
            found.update({name: value, name.upper(): value})
    return found
