# SPDX-License-Identifier: GPL-3.0-or-later
"""Images of pseudo-random blobs, identical in every run, in a folder that the upstream serves."""

from __future__ import annotations

import hashlib
import json
import pathlib
import random
from collections.abc import Sequence
from dataclasses import dataclass

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
_BLOCK = 1 << 20
_CONFIG_BYTES = 2048


@dataclass(frozen=True)
class Blob:
    """A blob's descriptor: `sha256:…` and the size in bytes."""

    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """An image: its repository, its manifest, its config and layers."""

    name: str
    manifest: Blob
    blobs: tuple[Blob, ...]

    @property
    def layers(self) -> tuple[Blob, ...]:
        return self.blobs[1:]

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs)


class Library:
    """A folder of images: `blobs/HEX`, `manifests/HEX`, `tags/NAME` (which holds the manifest's HEX)."""

    tag = "latest"

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        for name in ("blobs", "manifests", "tags"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        self._block = random.Random(0).randbytes(_BLOCK)

    def blob(self, digest: str) -> pathlib.Path:
        return self.folder / "blobs" / digest.removeprefix("sha256:")

    def manifest(self, digest: str) -> pathlib.Path:
        return self.folder / "manifests" / digest.removeprefix("sha256:")

    def resolve(self, name: str) -> str | None:
        """Returns the digest of a repository's tag, or None."""
        try:
            return (self.folder / "tags" / name.replace("/", "_")).read_text()
        except OSError:
            return None

    def _make(self, seed: str, size: int) -> Blob:
        """Writes a blob. All blocks of all blobs are different."""
        digest, path = hashlib.sha256(), self.folder / "blobs" / f"new-{hashlib.sha256(seed.encode()).hexdigest()}"
        with path.open("wb") as file:
            for start in range(0, size, _BLOCK):
                head = hashlib.sha256(f"{seed}\0{start}".encode()).digest()
                block = (head + self._block[len(head) :])[: size - start]
                digest.update(block)
                file.write(block)
        name = f"sha256:{digest.hexdigest()}"
        path.rename(self.blob(name))
        return Blob(name, size)

    def image(self, name: str, sizes: Sequence[int]) -> Image:
        """Creates an image whose layers have the given sizes in bytes. `name` is the repository and the seed."""
        config, *layers = [self._make(f"{name}\0{n}", size) for n, size in enumerate((_CONFIG_BYTES, *sizes))]
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {"mediaType": _CONFIG, "digest": config.digest, "size": config.size},
                "layers": [{"mediaType": _LAYER, "digest": blob.digest, "size": blob.size} for blob in layers],
            }
        ).encode()
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        self.manifest(digest).write_bytes(manifest)
        (self.folder / "tags" / name.replace("/", "_")).write_text(digest)
        return Image(name, Blob(digest, len(manifest)), (config, *layers))

    def retag(self, image: Image, other: Image) -> None:
        """Moves an image's tag to another image's manifest."""
        (self.folder / "tags" / image.name.replace("/", "_")).write_text(other.manifest.digest)

    def forget(self, image: Image) -> None:
        """Removes an image's blobs from the disk."""
        for blob in image.blobs:
            self.blob(blob.digest).unlink(missing_ok=True)
