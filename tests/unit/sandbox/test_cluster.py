# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of kind and CoreDNS, and a client that touches only nodes of its cluster."""

from __future__ import annotations

import pathlib
import subprocess
from typing import Any

import pytest

from sandbox import client, cluster
from sandbox.client import cluster as client_cluster
from sandbox.images import kind_node
from sandbox.settings import Sandbox

COREFILE = ".:53 {\n    kubernetes cluster.local\n    forward . /etc/resolv.conf {\n       max_concurrent 9\n    }\n}\n"


def test_each_node_has_its_image() -> None:
    ours, newest = f"{kind_node.NODE_IMAGE}:1", f"{kind_node.NODE_IMAGE}:2"
    nodes = cluster._config(ours, ours, newest)["nodes"]
    assert nodes == [
        {"role": "control-plane", "image": ours},
        {"role": "worker", "image": ours},
        {"role": "worker", "image": newest},
    ]


def test_kinds_own_image_uses_kinds_pod_network() -> None:
    assert "disableDefaultCNI" not in str(cluster._config("kindest/node:v1"))
    assert "disableDefaultCNI" in str(cluster._config(f"{kind_node.NODE_IMAGE}:1"))


@pytest.mark.parametrize(("ours", "forward"), [(True, "198.18.0.1"), (False, "/etc/resolv.conf")])
def test_googles_names_are_resolved_before_others_are_forwarded(ours: bool, forward: str) -> None:
    text = cluster._google_names(COREFILE, "198.19.0.1", ours)
    assert text.index("198.19.0.1 sts.googleapis.com") < text.index(f"forward . {forward} {{")
    assert text.count("forward .") == 1


def test_only_nodes_of_this_cluster_are_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "nodes", lambda _sandbox: ["registry-cache-test-control-plane"])
    monkeypatch.setattr(client_cluster.subprocess, "run", lambda *_words, **_more: pytest.fail("a command ran"))
    nodes = client.Cluster(Sandbox("test"))
    for act in (nodes.stop, nodes.start, nodes.pause, nodes.unpause, nodes.cut, nodes.mend, nodes.endpoint):
        with pytest.raises(ValueError, match="is not a node of registry-cache-test"):
            act("registry-cache-demo-control-plane")


def test_a_pull_keeps_its_credential_off_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "nodes", lambda _sandbox: ["one", "two"])
    calls: list[tuple[list[str], str]] = []

    def run(argv: list[str], **more: Any) -> subprocess.CompletedProcess[str]:
        calls.append((argv, more["input"]))
        return subprocess.CompletedProcess(argv, 0, "", "")

    monkeypatch.setattr(client_cluster.subprocess, "run", run)
    nodes = client.Cluster(Sandbox("test"))
    assert nodes.pull("localhost:30026/p/r/i:1", "secret", node="two") >= 0
    nodes.pull("localhost:30026/p/r/i:2", "secret")
    (named, given), (default, _) = calls
    assert given == "nodes:secret\n" and "secret" not in " ".join(named)
    assert "two" in named and named[-1] == "localhost:30026/p/r/i:1"
    assert "one" in default and default[-1] == "localhost:30026/p/r/i:2"


def test_a_pull_passes_the_credential_to_crictl(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "crictl").write_text('#!/bin/sh\nprintf "%s|%s\\n" "$CRICTL_CREDS" "$*"\n')
    (tmp_path / "crictl").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(cluster, "nodes", lambda _sandbox: ["one"])
    shown: list[str] = []

    def on_node(_self: client.Cluster, *words: str, stdin: str, **_more: Any) -> str:
        shown.append(subprocess.run(words, input=stdin, capture_output=True, text=True, check=True).stdout)
        return ""

    monkeypatch.setattr(client.Cluster, "on_node", on_node)
    nodes = client.Cluster(Sandbox("test"))
    nodes.pull("localhost:30026/p/r/i:1", " a\\b ")
    assert shown == ["nodes: a\\b |pull localhost:30026/p/r/i:1\n"]
