# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts small runnable images into the stand-in's private repository, as `docker push` would."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pathlib
import random
import ssl
import sys
import tarfile
import time

import httpx

from sandbox.settings import LOCATION, PROJECT, REPOSITORY, UPSTREAM_HOST, Sandbox

# hello is what the demo runs; the others are there to be asked for while the upstream refuses.
IMAGES = ("hello:1.0", "hello:2.0", "other:1.0", "other:2.0")
_BUSYBOX = pathlib.Path("/bin/busybox")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _layer(files: dict[str, bytes]) -> tuple[bytes, str]:
    """A gzipped layer and its diff id."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(buffer.getvalue(), mtime=0), _digest(buffer.getvalue())


def _push_blob(client: httpx.Client, name: str, content: bytes) -> dict[str, str | int]:
    digest = _digest(content)
    if client.head(f"/v2/{name}/blobs/{digest}").status_code != 200:
        upload = client.post(f"/v2/{name}/blobs/uploads/")
        upload.raise_for_status()
        location = httpx.URL(upload.headers["location"])
        client.put(location.copy_merge_params({"digest": digest}), content=content).raise_for_status()
    return {"digest": digest, "size": len(content)}


def push(client: httpx.Client, name: str, tag: str) -> str:
    """Push one image of two layers; returns its digest."""
    unique = random.Random(f"{name}:{tag}").randbytes(1 << 20)
    layers = [_layer({"bin/busybox": _BUSYBOX.read_bytes()}), _layer({f"data/{tag}": unique})]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox", "sleep", "infinity"], "User": "65534:65534"},
        "rootfs": {"type": "layers", "diff_ids": [diff_id for _content, diff_id in layers]},
    }
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": _MANIFEST,
        "config": {"mediaType": f"{kind}.config.v1+json", **_push_blob(client, name, json.dumps(config).encode())},
        "layers": [
            {"mediaType": f"{kind}.layer.v1.tar+gzip", **_push_blob(client, name, content)} for content, _ in layers
        ],
    }
    body = json.dumps(manifest).encode()
    client.put(f"/v2/{name}/manifests/{tag}", content=body, headers={"Content-Type": _MANIFEST}).raise_for_status()
    return _digest(body)


def create_repository(client: httpx.Client) -> None:
    """The private Docker repository, through Artifact Registry's own API."""
    parent = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories"
    host = {"Host": "artifactregistry.googleapis.com"}
    answer = client.post(parent, params={"repositoryId": REPOSITORY}, json={"format": "DOCKER"}, headers=host)
    if answer.status_code != 409:
        answer.raise_for_status()
    for _attempt in range(50):
        if client.get(f"{parent}/{REPOSITORY}", headers=host).status_code == 200:
            return
        time.sleep(0.1)
    raise TimeoutError(f"{parent}/{REPOSITORY} did not come")


def main() -> None:
    sandbox = Sandbox(sys.argv[1])
    with httpx.Client(
        base_url=f"https://{sandbox.gateway}",
        headers={"Authorization": f"Bearer {sandbox.operator_token.read_text().strip()}"},
        verify=ssl.create_default_context(cafile=str(sandbox.ca)),
        trust_env=False,
        timeout=30,
    ) as client:
        create_repository(client)
        for image in IMAGES:
            name, _, tag = image.partition(":")
            print(image, push(client, f"{PROJECT}/{REPOSITORY}/{name}", tag))
        print(f"pushed to {UPSTREAM_HOST}")


if __name__ == "__main__":
    main()
