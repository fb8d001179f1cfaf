# SPDX-License-Identifier: GPL-3.0-or-later
"""Names, addresses and version pins of a sandbox. Standard library only, since this runs before any environment exists."""

from __future__ import annotations

import hashlib
import os
import pathlib
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[1]
SANDBOX = ROOT / "sandbox"

# Builds are kept outside of the clone, under a key of their pins: another pin gets another entry.
CACHE = pathlib.Path(
    os.environ.get("REGISTRY_CACHE_SANDBOX_DIR")
    or pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "registry-cache-sandbox"
)

KUBERNETES_VERSION = "v1.34.4"
# The output of `kubeadm config images list` for that version. The go.mod files in tools/ pin the same sources.
ETCD_TAG, COREDNS_TAG, PAUSE_TAG = "3.6.5-0", "v1.12.1", "3.10.1"
DEBIAN_SUITE = "bookworm"

REGISTRY_IMAGE = "docker.io/library/registry:3.1.2"
GO_IMAGE = "docker.io/library/golang:1.26.10-alpine"
# A registry of base images for several platforms: docker holds only one platform under a name.
HUB = "127.0.0.1:15010"
HUB_REGISTRY_IMAGE = f"{HUB}/library/{REGISTRY_IMAGE.rpartition('/')[2]}"
# The pinned kind's own default (its pkg/apis/config/defaults/image.go).
KIND_NODE_IMAGE = (
    "kindest/node:v1.37.0@sha256:a1ed56cfb0e7b93589bdf97c8cd566405a265939e3620fc4f5de89adff580ae5"
)

# PyPI's ansible package contains the collections that would otherwise come from Galaxy.
ANSIBLE_PACKAGE = "ansible==12.3.0"
COLLECTIONS = (
    "awx/awx",  # for playbooks/awx.yml
    "kubernetes/core",
    "google/cloud",
    "community/general",  # used by the bench
)

PROJECT, PROJECT_NUMBER, LOCATION, REPOSITORY = "demo-project", "123456789012", "us-central1", "private"
UPSTREAM_HOST = f"{LOCATION}-docker.pkg.dev"
# The hosts of Google that pods use.
GOOGLE_HOSTS = ("sts.googleapis.com", "iamcredentials.googleapis.com", UPSTREAM_HOST)
NODE_PORT = 30026


def key(*parts: str | pathlib.Path) -> str:
    """Returns twelve hex digits that identify texts and the contents of files and folders."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            for file in sorted(part.rglob("*")) if part.is_dir() else [part]:
                if file.is_file() and "__pycache__" not in file.parts:
                    digest.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes() + b"\0")
        else:
            digest.update(part.encode() + b"\0")
    return digest.hexdigest()[:12]


@dataclass(frozen=True)
class Sandbox:
    """A cluster with its emulator. `demo` and `test` can run at the same time."""

    name: str

    @property
    def _index(self) -> int:
        return ("demo", "test").index(self.name)

    @property
    def cluster(self) -> str:
        return f"registry-cache-{self.name}"

    @property
    def state(self) -> pathlib.Path:
        """The folder of pid files, logs and credentials (0700)."""
        return CACHE / "run" / self.name

    # 198.18.0.0/15 is for benchmarks (RFC 2544), so it collides with no real network.
    @property
    def subnet(self) -> str:
        return f"198.19.{self._index}.0/24"

    @property
    def gateway(self) -> str:
        return f"198.19.{self._index}.1"

    @property
    def registry_port(self) -> int:
        return 15000 + self._index

    @property
    def proxy(self) -> str:
        return f"http://{self.gateway}:3128"

    @property
    def kubeconfig(self) -> pathlib.Path:
        return self.state / "kubeconfig"

    @property
    def ca(self) -> pathlib.Path:
        return self.state / "google" / "ca.pem"

    @property
    def operator_token(self) -> pathlib.Path:
        return self.state / "google" / "operator-token"

    @property
    def password(self) -> pathlib.Path:
        """The cache's password in this sandbox (0600)."""
        return self.state / "password"
