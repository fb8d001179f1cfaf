# SPDX-License-Identifier: GPL-3.0-or-later
"""The custom resources of external-secrets. The controller itself cannot run here, since its images are not available."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from sandbox.client import Cluster


def _definition(kind: str) -> dict[str, Any]:
    """Returns a CustomResourceDefinition that allows any spec."""
    plural = kind.lower() + "s"
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}}
    names = {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"}
    versions = [{"name": "v1", "served": True, "storage": True, "schema": schema}]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.external-secrets.io"},
        "spec": {"group": "external-secrets.io", "names": names, "scope": "Cluster", "versions": versions},
    }


@contextlib.contextmanager
def kinds(cluster: Cluster) -> Iterator[None]:
    """Install ClusterSecretStore and ClusterExternalSecret for a block."""
    items = [_definition(kind) for kind in ("ClusterSecretStore", "ClusterExternalSecret")]
    names = [f"crd/{item['metadata']['name']}" for item in items]
    try:
        cluster.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}))
        cluster.kubectl("wait", *names, "--for=condition=Established", "--timeout=30s")
        yield
    finally:
        cluster.kubectl("delete", *names, "--ignore-not-found")
