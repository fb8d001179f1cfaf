# SPDX-License-Identifier: GPL-3.0-or-later
"""Tools to make images: pull, import, load, tar archives, a static busybox."""

from __future__ import annotations

import hashlib
import io
import json
import pathlib
import tarfile
from collections.abc import Iterable

from .. import debian
from ..steps import Log

BUSYBOX = pathlib.Path("/bin/busybox")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ensure_busybox() -> None:
    """Install the static busybox. Debian's other busybox needs a C library, which images lack."""
    if not BUSYBOX.exists() or b"/ld-linux" in BUSYBOX.read_bytes():
        debian.install("busybox-static")


def pulled(name: str, log: Log) -> bool:
    return log.run("docker", "pull", name, check=False).returncode == 0


def import_image(log: Log, name: str, image_key: str, tree: pathlib.Path | bytes, *changes: str) -> None:
    """Import a folder or a tar as an image, with its key in a label."""
    flags = [word for change in (f"LABEL sandbox.key={image_key}", *changes) for word in ("--change", change)]
    if isinstance(tree, bytes):
        log.run("docker", "import", *flags, "-", name, stdin=tree)
    else:
        log.pipe(["tar", "--create", "--directory", str(tree), "."], ["docker", "import", *flags, "-", name])


def tar(files: Iterable[tuple[str, pathlib.Path | bytes]], links: Iterable[tuple[str, str]] = ()) -> bytes:
    """Returns a tar of files (given by path or content; mode 0755) and symbolic links."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for folder in ("tmp", "etc", "bin", "var/lib"):
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o1777 if folder == "tmp" else 0o755
            archive.addfile(info)
        for name, source in files:
            info = tarfile.TarInfo(name.lstrip("/"))
            content = source if isinstance(source, bytes) else source.read_bytes()
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
        for name, target in links:
            info = tarfile.TarInfo(name.lstrip("/"))
            info.type, info.linkname = tarfile.SYMTYPE, target
            archive.addfile(info)
    return buffer.getvalue()


def load(log: Log, name: str, architecture: str, layer: bytes, config: dict[str, object]) -> None:
    """Load an image of one layer. Unlike `docker import`, this works for any architecture."""
    diff = "sha256:" + hashlib.sha256(layer).hexdigest()
    described = {
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [diff]},
        "history": [{"created_by": "sandbox"}],
    }
    content = {
        "config.json": json.dumps(described).encode(),
        "layer.tar": layer,
        "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]).encode(),
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file, data in content.items():
            info = tarfile.TarInfo(file)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    log.run("docker", "load", stdin=buffer.getvalue())
