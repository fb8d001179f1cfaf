# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of each node: the base node image with the front's images in it, on the last worker also containerd 2."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

from . import engine, front_images, images, tools
from .settings import KUBERNETES_VERSION, SANDBOX, Sandbox, key
from .steps import Log, step

_CONTAINERD_2 = SANDBOX / "node" / "containerd-2"
Change = Callable[[Log, str], None]  # what is done to a container before it is committed


def ensure(sandbox: Sandbox) -> list[str]:
    """Image names, the control plane's first. kind's own node image serves as it is: its containerd is current."""
    base = images.ensure_node_image()
    if not base.startswith(images.NODE_IMAGE):
        return [base] * (1 + sandbox.workers)
    fronts = front_images.ensure_front_images(sandbox)
    image = _ensure(f"{KUBERNETES_VERSION}-{sandbox.name}", base, _with_images(fronts), *map(engine.image_id, fronts))
    if not sandbox.workers:
        return [image]
    programs = tools.build("containerd")
    tag = f"{KUBERNETES_VERSION}-{sandbox.name}-containerd-2"
    newest = _ensure(tag, image, _with_containerd_2(programs), key(_CONTAINERD_2), programs.name)
    return [image] * sandbox.workers + [newest]


def _ensure(tag: str, base: str, change: Change, *parts: str) -> str:
    """An image made out of another by `change`, unless it is there for these parts."""
    name = f"{images.NODE_IMAGE}:{tag}"
    stand_in_key = key(SANDBOX / "node_images.py", engine.image_id(base), *parts)
    if not engine.has_image(name, stand_in_key):
        container = f"registry-cache-sandbox-node-{os.getpid()}"
        how = ("--detach", "--privileged", "--network", "none", "--entrypoint", "sleep", "--name", container)
        known_as = f"node image {tag.removeprefix(f'{KUBERNETES_VERSION}-')}"
        with step(f"node image {tag}", "docker commit", known_as) as log:
            log.run("docker", "run", *how, base, "infinity")
            try:
                change(log, container)
                # Not the command line of this container, which commit would keep.
                back = (f"LABEL sandbox.key={stand_in_key}", 'ENTRYPOINT ["/usr/local/bin/node-entrypoint"]', "CMD []")
                flags = [word for text in back for word in ("--change", text)]
                log.run("docker", "commit", *flags, container, name)
            finally:
                log.run("docker", "rm", "--force", "--volumes", container, check=False)
    return name


def _with_images(names: list[str]) -> Change:
    """Images in the node's store, not unpacked: loading them into a running cluster takes longer than its start."""

    def change(log: Log, container: str) -> None:
        inside = ("docker", "exec", "--interactive", container)
        log.run("docker", "exec", "--detach", container, "containerd")
        log.run(*inside, "timeout", "30", "sh", "-c", "until ctr version >/dev/null 2>&1; do sleep 0.2; done")
        log.pipe(["docker", "save", *names], [*inside, "ctr", "-n=k8s.io", "images", "import", "--no-unpack", "-"])
        log.run(*inside, "pkill", "-TERM", "containerd")
        log.run(*inside, "timeout", "30", "sh", "-c", "while pgrep -x containerd >/dev/null; do sleep 0.2; done")

    return change


def _with_containerd_2(programs: pathlib.Path) -> Change:
    def change(log: Log, container: str) -> None:
        for program in ("containerd", "containerd-shim-runc-v2", "ctr"):
            log.run("docker", "cp", programs / program, f"{container}:/usr/bin/{program}")
        log.run("docker", "cp", f"{_CONTAINERD_2}/.", f"{container}:/")

    return change
