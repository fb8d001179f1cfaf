# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine: one that answers, or else one of our own."""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess

from . import debian, processes
from .settings import CACHE, SANDBOX
from .steps import step, wait

_RUN = CACHE / "run" / "engine"
_PID = _RUN / "dockerd.pid"
_OWN_HOST = f"unix://{_RUN}/docker.sock"


def _answers(host: str | None = None) -> bool:
    env = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    try:
        return subprocess.run(["docker", "info"], env=env, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def attach() -> bool:
    """Point DOCKER_HOST at our own engine if that one runs; say whether any engine answers."""
    if processes.running(_PID):
        os.environ["DOCKER_HOST"] = _OWN_HOST
    return _answers()


def ensure() -> None:
    """An engine that answers: the machine's own, else ours on Debian's packages."""
    if attach():
        return
    debian.ensure({"dockerd": "docker.io", "iptables": "iptables", "jq": "jq"})
    debian.ensure({"docker": "docker-cli"})  # a package of its own since Debian 13
    with step("container engine", "dockerd to answer") as log:
        _RUN.mkdir(parents=True, exist_ok=True)
        runtime = shutil.copy(SANDBOX / "node" / "rootfs" / "usr" / "local" / "bin" / "runc-sandbox", _RUN)  # outlives the clone
        if not _answers():  # Debian's package may just have started one
            # dockerd drops what others forward if it has to switch forwarding on itself.
            pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            processes.start(
                _PID,
                [
                    "dockerd",
                    f"--host={_OWN_HOST}",
                    f"--data-root={CACHE}/docker",
                    f"--exec-root={_RUN}/exec",
                    f"--pidfile={_RUN}/own.pid",
                    "--bridge=none",  # nodes have a network of their own, builds the host's
                    "--default-address-pool=base=198.19.128.0/17,size=24",
                    f"--add-runtime=sandbox={runtime}",
                    "--default-runtime=sandbox",
                ],
            )
            os.environ["DOCKER_HOST"] = _OWN_HOST
            log.path = _PID.with_suffix(".log")
            wait(_answers, 60, "an answer of dockerd")


def ours() -> bool:
    return processes.running(_PID)


def stop() -> None:
    """End our engine and take back the firewall rules that it leaves behind."""
    processes.stop(_PID)
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    kept = "".join(line for line in rules.splitlines(keepends=True) if "DOCKER" not in line)
    subprocess.run(["iptables-restore"], input=kept, text=True, check=True)


def has_image(name: str, key: str | None = None) -> bool:
    """Whether the engine holds an image; with `key`, whether it was made here for that key."""
    label = "{{ index .Config.Labels \"sandbox.key\" }}"
    result = subprocess.run(
        ["docker", "image", "inspect", "--format", label, name], capture_output=True, text=True, check=False
    )
    return result.returncode == 0 and (key is None or result.stdout.strip() == key)


def image_id(name: str) -> str:
    """The id of an image that the engine holds."""
    command = ["docker", "image", "inspect", "--format", "{{.Id}}", name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def made_here(name: str) -> bool:
    """Whether an image was made here rather than pulled."""
    return not has_image(name, "")
