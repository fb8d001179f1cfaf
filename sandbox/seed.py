# SPDX-License-Identifier: GPL-3.0-or-later
"""Pushes small runnable images into the emulator's private repository."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pathlib
import random
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import httpx

from sandbox.client.google import operator_client
from sandbox.settings import LOCATION, PROJECT, REPOSITORY, UPSTREAM_HOST, Sandbox

# The demo runs hello. The others are for pulls while the upstream refuses.
IMAGES = ("hello:1.0", "hello:2.0", "other:1.0", "other:2.0")
_BUSYBOX = pathlib.Path("/bin/busybox")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Blob:
    digest: str
    size: int


@dataclass(frozen=True)
class Image:
    """A pushed image. `layers`: all except busybox."""

    name: str
    tag: str
    digest: str
    config: Blob
    busybox: Blob
    layers: tuple[Blob, ...]

    @property
    def blobs(self) -> tuple[Blob, ...]:
        return (self.config, self.busybox, *self.layers)


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _layer(files: dict[str, bytes]) -> tuple[bytes, str]:
    """Returns a gzipped layer and its diff id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), compresslevel=1, mtime=0), _digest(buffer.getvalue())


def _push_blob(client: httpx.Client, name: str, content: bytes) -> Blob:
    digest = _digest(content)
    if client.head(f"/v2/{name}/blobs/{digest}").status_code != 200:
        upload = client.post(f"/v2/{name}/blobs/uploads/")
        upload.raise_for_status()
        location = httpx.URL(upload.headers["location"])
        client.put(location.copy_merge_params({"digest": digest}), content=content).raise_for_status()
    return Blob(digest, len(content))


def _random(source: random.Random, size: int) -> bytes:
    """Returns random bytes. One call of randbytes returns less than 256 MiB."""
    most = 1 << 27
    return b"".join(source.randbytes(min(most, size - start)) for start in range(0, size, most))


def push(
    client: httpx.Client, name: str, tag: str, sizes: Sequence[int] = (1 << 20,), content: str | None = None
) -> Image:
    """Push an image into the private repository: busybox, then a layer of random content for each size.

    Images with the same `content` (default: name and tag) and sizes have the same layers.
    """
    unique = random.Random(content or f"{PROJECT}/{REPOSITORY}/{name}:{tag}")
    made = [_layer({"bin/busybox": _BUSYBOX.read_bytes()})]
    made += [_layer({f"data/{number}": _random(unique, size)}) for number, size in enumerate(sizes)]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "infinity"], "User": "65534:65534"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _content, diff_id in made]},
    }
    kind, repository = "application/vnd.oci.image", f"{PROJECT}/{REPOSITORY}/{name}"
    contents = [json.dumps(config).encode(), *(layer for layer, _diff_id in made)]
    with ThreadPoolExecutor(4) as executor:
        configured, *pushed = executor.map(lambda blob: _push_blob(client, repository, blob), contents)
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": f"{kind}.config.v1+json", **asdict(configured)},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar+gzip", **asdict(blob)} for blob in pushed],
    }
    body = json.dumps(manifest).encode()
    url = f"/v2/{repository}/manifests/{tag}"
    client.put(url, content=body, headers={"Content-Type": _MANIFEST}).raise_for_status()
    return Image(name, tag, _digest(body), configured, pushed[0], tuple(pushed[1:]))


def create_repository(client: httpx.Client) -> None:
    """Create the private Docker repository by Artifact Registry's API, unless it exists."""
    parent = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories"
    host = {"Host": "artifactregistry.googleapis.com"}
    answer = client.post(parent, params={"repositoryId": REPOSITORY}, json={"format": "DOCKER"}, headers=host)
    if answer.status_code != 409:
        answer.raise_for_status()
    for _attempt in range(50):
        if client.get(f"{parent}/{REPOSITORY}", headers=host).status_code == 200:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{parent}/{REPOSITORY} was not created in 5 s")


def main() -> None:
    sandbox = Sandbox(sys.argv[1])
    with operator_client(sandbox) as client:
        create_repository(client)
        for image in IMAGES:
            name, _, tag = image.partition(":")
            print(image, push(client, name, tag).digest)
        print(f"pushed to {UPSTREAM_HOST}")


if __name__ == "__main__":
    main()
