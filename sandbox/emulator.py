# SPDX-License-Identifier: GPL-3.0-or-later
"""Starts the Google emulator and the real registry that holds its private images."""

from __future__ import annotations

import json
import pathlib
import shutil
import ssl

from . import direct, environment, processes
from .from_source import tools
from .settings import PROJECT, PROJECT_NUMBER, SANDBOX, UPSTREAM_HOST, Sandbox
from .steps import step, wait

OPERATOR = "user:admin@example.com"


def ensure(sandbox: Sandbox) -> None:
    """The registry on loopback, the emulator on the cluster network's gateway address."""
    binary = tools.build("registry") / "registry"
    home = sandbox.state / "google"
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    registry, google = home / "registry.pid", home / "google.pid"
    if not (processes.running(registry) and processes.running(google)):
        _start(sandbox, binary)
    with step(f"images in {UPSTREAM_HOST}/{PROJECT}", "the emulator to take them") as log:
        log.run(environment.PYTHON, SANDBOX / "seed.py", sandbox.name, env={"PYTHONPATH": str(SANDBOX.parent)})


def _start(sandbox: Sandbox, binary: pathlib.Path) -> None:
    home = sandbox.state / "google"
    registry, google = home / "registry.pid", home / "google.pid"
    with step("Google emulator", "its health check") as log:
        if not processes.running(registry):
            config = {
                "version": "0.1",
                "log": {"level": "warn"},
                "storage": {"filesystem": {"rootdirectory": str(home / "images")}, "delete": {"enabled": True}},
                "http": {"addr": f"127.0.0.1:{sandbox.registry_port}", "relativeurls": True},
            }
            (home / "registry.json").write_text(json.dumps(config))
            processes.start(registry, [str(binary), "serve", str(home / "registry.json")])
        if not processes.running(google):
            start_process(home, environment.PYTHON, sandbox.gateway, 443, 3128, f"http://127.0.0.1:{sandbox.registry_port}")
        log.path = google.with_suffix(".log")
        registry_url = f"http://127.0.0.1:{sandbox.registry_port}/"
        wait(lambda: direct.status(registry_url, timeout=2) == 200, 20, "the registry behind the emulator")
        wait_until_healthy(home, f"https://{sandbox.gateway}")


def start_process(
    home: pathlib.Path, python: pathlib.Path, address: str, port: int, proxy_port: int, registry_url: str
) -> None:
    """Start the emulator, which `home`/google.pid names from then on.

    :param home: where it keeps what it has: `ca.pem`, `operator-token`.
    :param python: the interpreter of an environment with its requirements.
    :param address: where it listens, with TLS on `port` and as a proxy that leads there on `proxy_port`.
    :param registry_url: of the registry that holds its images.
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
    )


def wait_until_healthy(home: pathlib.Path, url: str) -> None:
    """Wait for the emulator's health check; raises StepFailed if it does not come."""
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
