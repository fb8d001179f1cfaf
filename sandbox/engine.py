# SPDX-License-Identifier: GPL-3.0-or-later
"""The container engine: the machine's own if it answers, else one that the sandbox starts."""

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
_RUNTIME = SANDBOX / "node" / "rootfs" / "usr" / "local" / "bin" / "runc-sandbox"


def _answers(host: str | None = None) -> bool:
    env = {**os.environ, **({"DOCKER_HOST": host} if host else {})}
    try:
        return subprocess.run(["docker", "info"], env=env, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def attach() -> bool:
    """Point DOCKER_HOST at the sandbox's own engine if it runs. Returns whether any engine answers."""
    if processes.running(_PID):
        os.environ["DOCKER_HOST"] = _OWN_HOST
    return _answers()


def _install_runtime() -> pathlib.Path:
    """Copy the runtime out of this clone, which the engine outlives. Replaces it in one step: containers may be starting."""
    _RUN.mkdir(parents=True, exist_ok=True)
    new = shutil.copy(_RUNTIME, _RUN / f"{_RUNTIME.name}.new")
    return new.replace(_RUN / _RUNTIME.name)


def ensure() -> None:
    """Make sure that an engine answers: the machine's, or else one started here from Debian's packages."""
    if attach():
        if ours():
            _install_runtime()  # the engine may be one that another clone started
        return
    debian.ensure({"dockerd": "docker.io", "iptables": "iptables", "jq": "jq"})
    debian.ensure({"docker": "docker-cli"})  # a package of its own since Debian 13
    with step("container engine", "dockerd") as log:
        runtime = _install_runtime()
        if not _answers():  # installing Debian's package may have started one
            # If dockerd has to enable forwarding itself, it also drops the forwarded traffic of others.
            pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
            processes.start(
                _PID,
                [
                    "dockerd",
                    f"--host={_OWN_HOST}",
                    f"--data-root={CACHE}/docker",
                    f"--exec-root={_RUN}/exec",
                    f"--pidfile={_RUN}/own.pid",
                    "--bridge=none",  # nodes have a separate network, builds use the host's
                    "--default-address-pool=base=198.19.128.0/17,size=24",
                    f"--add-runtime=sandbox={runtime}",
                    "--default-runtime=sandbox",
                ],
            )
            os.environ["DOCKER_HOST"] = _OWN_HOST
            log.path = _PID.with_suffix(".log")
            wait(_answers, 60, "dockerd")


def ours() -> bool:
    return processes.running(_PID)


def stop() -> None:
    """Stop the sandbox's engine and remove the firewall rules that it leaves behind."""
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
