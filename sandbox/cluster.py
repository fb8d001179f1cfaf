# SPDX-License-Identifier: GPL-3.0-or-later
"""The kind cluster: its creation, its pod network if the node image has none, and Google's names in its DNS."""

from __future__ import annotations

import json
import os
import pathlib
import re
import subprocess
import tempfile

from .from_source import tools
from .images import kind_node
from .images import nodes as node_images
from .settings import GOOGLE_HOSTS, NODE_PORT, Sandbox
from .steps import Log, step, wait

Client = tuple[str | pathlib.Path, ...]  # kubectl with its kubeconfig

_PODS, _SERVICES = "198.18.128.0/17", "198.18.64.0/18"
_NOWHERE = "198.18.0.1"  # nothing answers there (RFC 2544)
# kind reads the name of the nodes' network from here. A separate one keeps the sandbox apart from other clusters.
_NETWORK_VARIABLE = "KIND_EXPERIMENTAL_DOCKER_NETWORK"


def _kind() -> pathlib.Path:
    return tools.build("registry") / "kind"


def kubectl(sandbox: Sandbox) -> pathlib.Path:
    return sandbox.state / "bin" / "kubectl"


def _output(*argv: str | pathlib.Path) -> str:
    return subprocess.run([str(word) for word in argv], capture_output=True, text=True, check=True).stdout


def nodes(sandbox: Sandbox) -> list[str]:
    """Returns the names of the nodes: the control plane, then the workers, last the one with the newest containerd."""
    return sorted(_output(_kind(), "get", "nodes", "--name", sandbox.cluster).split())


def exists(sandbox: Sandbox) -> bool:
    return sandbox.cluster in _output(_kind(), "get", "clusters").split() and sandbox.kubeconfig.exists()


def ensure_network(sandbox: Sandbox) -> None:
    """Make the nodes' network unless it exists. The emulator listens on its gateway address."""
    os.environ[_NETWORK_VARIABLE] = sandbox.cluster
    if sandbox.cluster in _output("docker", "network", "ls", "--format", "{{.Name}}").split():
        return
    with step(f"network {sandbox.subnet}") as log:
        addresses = ("--subnet", sandbox.subnet, "--gateway", sandbox.gateway)
        log.run("docker", "network", "create", *addresses, sandbox.cluster)


def _config(image: str, *workers: str) -> dict[str, object]:
    config: dict[str, object] = {
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {"podSubnet": _PODS, "serviceSubnet": _SERVICES},
        "nodes": [
            {"role": "control-plane", "image": image},
            *({"role": "worker", "image": worker} for worker in workers),
        ],
    }
    if image.startswith(kind_node.NODE_IMAGE):
        kubelet = {
            "kind": "KubeletConfiguration",
            "failCgroupV1": False,
            "resolvConf": "/kind/resolv.conf",
            "evictionHard": {"nodefs.available": "0%", "imagefs.available": "0%"},
        }
        config["featureGates"] = {"KubeletInUserNamespace": True}  # no CAP_SYS_RESOURCE, no /dev/kmsg
        config["networking"] = {**config["networking"], "disableDefaultCNI": True}  # type: ignore[dict-item]
        config["kubeadmConfigPatches"] = [json.dumps(kubelet)]
    return config


def _google_names(corefile: str, address: str, ours: bool) -> str:
    """Returns a Corefile that resolves Google's names to the emulator. On the sandbox's node image no other name resolves."""
    if ours:  # with Docker's resolver, CoreDNS would forward to itself
        corefile = corefile.replace("forward . /etc/resolv.conf", f"forward . {_NOWHERE}")
    hosts = f"    hosts {{\n        {address} {' '.join(GOOGLE_HOSTS)}\n        fallthrough\n    }}\n"
    return re.sub(r"(?m)^    forward ", hosts + "    forward ", corefile, count=1)


def _teach_dns(sandbox: Sandbox, log: Log, client: Client, ours: bool) -> None:
    program = [*client, "--namespace", "kube-system"]
    config_map = json.loads(_output(*program, "get", "configmap", "coredns", "--output", "json"))
    patch = {"data": {"Corefile": _google_names(config_map["data"]["Corefile"], sandbox.gateway, ours)}}
    log.run(*program, "patch", "configmap", "coredns", "--patch", json.dumps(patch))
    log.run(*program, "scale", "deployment", "coredns", "--replicas", "1")
    log.run(*program, "rollout", "restart", "deployment", "coredns")


def _connect_pods(log: Log, client: Client) -> None:
    """Set up a bridge with the pod range of each node, and routes between nodes, which a restart of a node removes."""
    get = (*client, "get", "nodes", "--output", "json")
    wait(lambda: all("podCIDR" in item["spec"] for item in json.loads(_output(*get))["items"]), 60, "the pod ranges of all nodes")
    items = json.loads(_output(*get))["items"]
    ranges = {item["metadata"]["name"]: item["spec"]["podCIDR"] for item in items}
    addresses = {
        item["metadata"]["name"]: next(a["address"] for a in item["status"]["addresses"] if a["type"] == "InternalIP")
        for item in items
    }
    for node, pods in ranges.items():
        network = {
            "cniVersion": "0.3.1",
            "name": "sandbox",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isGateway": True,
                    "ipMasq": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        inside = ("docker", "exec", "--interactive", node)
        for other in ranges.keys() - {node}:
            log.run(*inside, "ip", "route", "replace", ranges[other], "via", addresses[other])
        log.run(*inside, "mkdir", "--parents", "/etc/cni/net.d")
        log.run(*inside, "tee", "/etc/cni/net.d/10-sandbox.conflist", stdin=json.dumps(network).encode())


def ensure(sandbox: Sandbox) -> None:
    """Make the cluster unless it exists. Its pods resolve Google's names to the emulator."""
    os.environ[_NETWORK_VARIABLE] = sandbox.cluster
    if exists(sandbox):
        return
    image, *workers = node_images.ensure()
    with step(f"kind cluster {sandbox.cluster}", "kubeadm, then all nodes and CoreDNS") as log:
        sandbox.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        log.run(_kind(), "delete", "cluster", "--name", sandbox.cluster)  # the remains of an interrupted run
        new = sandbox.kubeconfig.with_suffix(".new")
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
            json.dump(_config(image, *workers), file)
            file.flush()
            where = ("--name", sandbox.cluster, "--kubeconfig", new)
            log.run(_kind(), "create", "cluster", "--config", file.name, *where)
        kubectl(sandbox).parent.mkdir(exist_ok=True)
        log.run("docker", "cp", f"{nodes(sandbox)[0]}:/usr/bin/kubectl", kubectl(sandbox))
        client = (kubectl(sandbox), "--kubeconfig", new)
        ours = image.startswith(kind_node.NODE_IMAGE)
        _teach_dns(sandbox, log, client, ours)
        if ours:
            _connect_pods(log, client)
        # kind removes the taint only in clusters of one node.
        log.run(*client, "taint", "nodes", "--all", "node-role.kubernetes.io/control-plane-", check=False)
        log.run(*client, "wait", "nodes", "--all", "--for=condition=Ready", "--timeout=180s")
        dns = ("--namespace", "kube-system", "rollout", "status", "deployment", "coredns", "--timeout=180s")
        log.run(*client, *dns)
        new.rename(sandbox.kubeconfig)  # marks the cluster as complete


def address(sandbox: Sandbox, node: str) -> str:
    """Returns a node's address on the sandbox's network."""
    template = "{{ (index .NetworkSettings.Networks \"%s\").IPAddress }}" % sandbox.cluster
    return _output("docker", "inspect", "--format", template, node).strip()


def endpoint(sandbox: Sandbox, node: str | None = None, port: int = NODE_PORT) -> str:
    """Returns the URL of the cache for this machine: the NodePort on a node's address. Default: the first node."""
    return f"http://{address(sandbox, node or nodes(sandbox)[0])}:{port}"


def reconnect(sandbox: Sandbox) -> None:
    """Restore the pod network after a node was restarted."""
    first = nodes(sandbox)[0]
    if _output("docker", "inspect", "--format", "{{.Config.Image}}", first).startswith(kind_node.NODE_IMAGE):
        client = (kubectl(sandbox), "--kubeconfig", sandbox.kubeconfig)
        with step("pod network after a node's restart") as log:
            _connect_pods(log, client)


def delete(sandbox: Sandbox) -> None:
    with step(f"removal of cluster {sandbox.cluster}") as log:
        log.run(_kind(), "delete", "cluster", "--name", sandbox.cluster)
        log.run("docker", "network", "rm", sandbox.cluster, check=False)
