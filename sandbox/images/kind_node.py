# SPDX-License-Identifier: GPL-3.0-or-later
"""The node image of kind: pulled if possible, else made from Debian packages and Go modules."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from .. import debian, engine
from ..from_source import tools
from ..settings import (
    CACHE,
    COREDNS_TAG,
    DEBIAN_SUITE,
    ETCD_TAG,
    KIND_NODE_IMAGE,
    KUBERNETES_VERSION,
    PAUSE_TAG,
    SANDBOX,
    key,
)
from ..steps import Log, StepFailed, say, step
from .build import BUSYBOX, PATH, import_image, pulled, tar

NODE_IMAGE = "registry-cache-sandbox/node"
_IMAGES = SANDBOX / "images"
_NODE_PACKAGES = (
    "systemd,dbus,containerd,runc,iptables,nftables,iproute2,conntrack,ethtool,socat,kmod,procps,"
    "ca-certificates,containernetworking-plugins,jq,curl"
)


def _output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def _debian_root() -> pathlib.Path:
    tree = CACHE / f"node-root-{key(_NODE_PACKAGES, DEBIAN_SUITE)}"
    ready = tree.with_suffix(".ready")
    if not ready.exists():
        debian.ensure({"debootstrap": "debootstrap"})
        with step("node image: Debian root", "the package mirror") as log:
            shutil.rmtree(tree, ignore_errors=True)
            log.run("debootstrap", "--variant=minbase", f"--include={_NODE_PACKAGES}", DEBIAN_SUITE, tree)
            for archive in (tree / "var" / "cache" / "apt" / "archives").glob("*.deb"):
                archive.unlink()
            ready.touch()
    return tree


def _iptables(root: pathlib.Path) -> tuple[list[tuple[str, pathlib.Path]], list[tuple[str, str]]]:
    """Returns the files and links that kube-proxy needs: iptables on nftables and its libraries, from a Debian root."""
    multi = "/usr/sbin/xtables-nft-multi"
    names = ("iptables", "ip6tables")
    commands = [f"{name}{suffix}" for name in names for suffix in ("", "-save", "-restore")]
    extensions = [f"/{file.relative_to(root)}" for file in (root / "usr/lib/x86_64-linux-gnu/xtables").glob("*.so")]
    # Extensions have more dependencies: `statistic`, used for every Service with two endpoints, needs libm.
    linked = _output("chroot", str(root), "ldd", multi, *extensions).split()
    paths = [multi, *extensions, *(word for word in linked if word.startswith("/") and not word.endswith(":"))]
    files = [(path, debian.inside(root, path)) for path in dict.fromkeys(paths)]
    return files, [(f"/usr/sbin/{command}", multi) for command in commands]


def _make_control_plane_images(log: Log, root: pathlib.Path) -> list[str]:
    kubernetes, etcd, coredns = (tools.build(group) for group in ("kubernetes", "etcd", "coredns"))
    names = []

    def make(name: str, content: bytes, entrypoint: str) -> None:
        import_image(log, name, "", content, f"ENV PATH={PATH}", f'ENTRYPOINT ["{entrypoint}"]')
        names.append(name)

    for program in ("kube-apiserver", "kube-controller-manager", "kube-scheduler"):
        binary = f"/usr/local/bin/{program}"
        make(f"registry.k8s.io/{program}:{KUBERNETES_VERSION}", tar([(binary, kubernetes / program)]), binary)
    files, links = _iptables(root)
    proxy = tar([*files, ("/usr/local/bin/kube-proxy", kubernetes / "kube-proxy")], links)
    make(f"registry.k8s.io/kube-proxy:{KUBERNETES_VERSION}", proxy, "/usr/local/bin/kube-proxy")
    make(f"registry.k8s.io/etcd:{ETCD_TAG}", tar([("/usr/local/bin/etcd", etcd / "server")]), "/usr/local/bin/etcd")
    dns = tar([("/coredns", coredns / "coredns")])
    make(f"registry.k8s.io/coredns/coredns:{COREDNS_TAG}", dns, "/coredns")
    pause = f"registry.k8s.io/pause:{PAUSE_TAG}"
    import_image(log, pause, "", tar([("/bin/busybox", BUSYBOX)]), 'ENTRYPOINT ["/bin/busybox", "sleep", "infinity"]')
    return [*names, pause]


def _make_node(log: Log, name: str, image_key: str, root: pathlib.Path) -> None:
    kubernetes = tools.build("kubernetes")
    container = f"registry-cache-sandbox-node-{os.getpid()}"
    names = _make_control_plane_images(log, root)
    import_image(log, f"{NODE_IMAGE}:root", "", root)
    how = ("--detach", "--privileged", "--network", "none", "--stop-signal", "SIGRTMIN+3", "--name", container)
    log.run("docker", "run", *how, f"{NODE_IMAGE}:root", "sleep", "infinity")
    try:
        log.run("docker", "cp", f"{SANDBOX}/node/rootfs/.", f"{container}:/")
        for program in ("kubelet", "kubeadm", "kubectl", "crictl"):
            log.run("docker", "cp", kubernetes / program, f"{container}:/usr/bin/{program}")
        inside = ["docker", "exec", "--interactive", container]
        log.run(*inside, "tee", "/kind/version", stdin=KUBERNETES_VERSION.encode())
        log.run("docker", "exec", "--detach", container, "containerd")
        ready = "until ctr version >/dev/null 2>&1; do sleep 0.2; done"
        log.run(*inside, "timeout", "30", "sh", "-c", ready)
        log.pipe(["docker", "save", *names], [*inside, "ctr", "-n=k8s.io", "images", "import", "--no-unpack", "-"])
        log.run(*inside, "pkill", "-TERM", "containerd")
        log.run(*inside, "timeout", "30", "sh", "-c", "while pgrep -x containerd >/dev/null; do sleep 0.2; done")
        changes = (
            f"LABEL sandbox.key={image_key}",
            "ENV container=docker",
            'ENTRYPOINT ["/usr/local/bin/node-entrypoint"]',
            "CMD []",
        )
        log.run("docker", "commit", *[word for change in changes for word in ("--change", change)], container, name)
    finally:
        log.run("docker", "rm", "--force", "--volumes", container, check=False)
        log.run("docker", "image", "rm", f"{NODE_IMAGE}:root", *names, check=False)


def ensure() -> str:
    """Returns the name of the node image: kind's if it can be pulled, else the one made here."""
    image_key = key(SANDBOX / "node", _IMAGES / "kind_node.py", _IMAGES / "build.py", SANDBOX / "tools", KUBERNETES_VERSION, ETCD_TAG)
    ours = f"{NODE_IMAGE}:{KUBERNETES_VERSION}"
    if engine.has_image(KIND_NODE_IMAGE):
        return KIND_NODE_IMAGE
    if engine.has_image(ours, image_key):
        return ours
    with step(f"node image {KIND_NODE_IMAGE}", "a pull") as log:
        if pulled(KIND_NODE_IMAGE, log):
            return KIND_NODE_IMAGE
    say("   the pull failed; making an image from Debian packages and Go modules instead")
    root = _debian_root()
    for group in ("kubernetes", "etcd", "coredns"):
        tools.build(group)
    with step("node image", "docker import and commit") as log:
        _make_node(log, ours, image_key, root)
    if not engine.has_image(ours, image_key):
        raise StepFailed(f"docker commit did not create {ours}")
    return ours
