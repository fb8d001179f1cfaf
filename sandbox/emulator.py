# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the Google emulator and the real registry that stores its private images."""

from __future__ import annotations

import json
import pathlib
import shutil
import ssl

from . import direct, environment, processes
from .from_source import tools
from .settings import PROJECT, PROJECT_NUMBER, ROOT, SANDBOX, UPSTREAM_HOST, Sandbox, key
from .steps import say, step, wait

OPERATOR = "user:admin@example.com"
_SOURCES = (SANDBOX / "google" / "google_emulator", SANDBOX / "google" / "requirements.txt", SANDBOX / "emulator.py")


def ensure(sandbox: Sandbox) -> None:
    """Run the registry on loopback and the emulator on the gateway address of the cluster's network.

    A process of other sources is replaced: another clone, or an older state of this one, may have left it running.
    """
    binary = tools.build("registry") / "registry"
    home = sandbox.state / "google"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    pid_files = home / "registry.pid", home / "google.pid"
    keys = str(binary), key(*_SOURCES)
    if not all(map(processes.running, pid_files, keys)):
        _start(sandbox, binary, *keys)
    with step(f"images in {UPSTREAM_HOST}/{PROJECT}", "uploads to the emulator") as log:
        log.run(environment.PYTHON, SANDBOX / "seed.py", sandbox.name, env={"PYTHONPATH": str(SANDBOX.parent)})


def _start(sandbox: Sandbox, binary: pathlib.Path, registry_key: str, google_key: str) -> None:
    home = sandbox.state / "google"
    with step("Google emulator", "its health check") as log:
        if _stopped(home / "registry.pid", registry_key):
            config = {
                "version": "0.1",
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(home / "images")}, "delete": {"enabled": True}},
                "http": {"addr": f"127.0.0.1:{sandbox.registry_port}", "relativeurls": True},
            }
            (home / "registry.json").write_text(json.dumps(config))
            command = [str(binary), "serve", str(home / "registry.json")]
            processes.start(home / "registry.pid", command, key=registry_key)
        registry_url = f"http://127.0.0.1:{sandbox.registry_port}"
        if _stopped(home / "google.pid", google_key):
            start_process(home, environment.PYTHON, sandbox.gateway, 443, 3128, registry_url, google_key)
        log.path = home / "google.log"
        wait(lambda: direct.status(f"{registry_url}/", timeout=2) == 200, 20, "the registry behind the emulator")
        wait_until_healthy(home, f"https://{sandbox.gateway}")


def _stopped(pid_file: pathlib.Path, wanted: str) -> bool:
    """Returns whether a process must be started. One that runs with another key is stopped first."""
    if processes.running(pid_file, wanted):
        return False
    if processes.running(pid_file):
        say(f"   replacing the running {pid_file.stem} process, whose sources are not those of {ROOT}")
        processes.stop(pid_file)
    return True


def start_process(
    home: pathlib.Path,
    python: pathlib.Path,
    address: str,
    port: int,
    proxy_port: int,
    registry_url: str,
    source_key: str | None = None,
) -> None:
    """Start the emulator and record its pid in `home`/google.pid.

    :param home: the folder of its state, such as `ca.pem` and `operator-token`.
    :param python: the interpreter of an environment that has its requirements.
    :param address: where it listens, with TLS on `port`, and on `proxy_port` with a proxy that leads to `port`.
    :param registry_url: the registry that stores its images.
    :param source_key: identifies its sources, see `processes.start`.
    """
    config = {
        "address": address,
        "port": port,
        "proxy_port": proxy_port,
        "state_dir": str(home),
        "registry_url": registry_url,
        "operator": OPERATOR,
        "operator_token_file": str(home / "operator-token"),
        "projects": {PROJECT: PROJECT_NUMBER},
    }
    (home / "google.json").write_text(json.dumps(config))
    processes.start(
        home / "google.pid",
        [str(python), "-m", "google_emulator", "--config", str(home / "google.json")],
        env={"PYTHONPATH": str(SANDBOX / "google")},
        key=source_key,
    )


def wait_until_healthy(home: pathlib.Path, url: str) -> None:
    """Wait until the emulator's health check succeeds. Raises StepFailed after 20 s."""
    ca = home / "ca.pem"
    wait(ca.exists, 20, "the emulator's CA", every=0.1)
    context = ssl.create_default_context(cafile=str(ca))
    wait(lambda: direct.status(f"{url}/emulator/health", context=context, timeout=2) == 200, 20, "the emulator", every=0.1)


def stop(sandbox: Sandbox) -> None:
    for name in ("google", "registry"):
        processes.stop(sandbox.state / "google" / f"{name}.pid")


def forget(sandbox: Sandbox) -> None:
    """Remove the emulator's resources, images, CA and tokens."""
    shutil.rmtree(sandbox.state / "google", ignore_errors=True)
