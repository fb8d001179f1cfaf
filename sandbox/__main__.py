# SPDX-License-Identifier: GPL-3.0-or-later
"""Start, stop and use a sandbox: a kind cluster and an emulator of Google."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time

from . import cluster, durations, emulator, engine, environment
from .from_source import tools
from .images import base
from .settings import CACHE, ROOT, Sandbox
from .steps import say


def _ensure_password(sandbox: Sandbox) -> None:
    if not sandbox.password.exists():
        descriptor = os.open(sandbox.password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(16).hex())


def up(sandbox: Sandbox) -> None:
    """Start the container engine, the cluster and the Google emulator, and make the images they need."""
    started = time.monotonic()
    _leave()
    environment.ensure()
    if sandbox.name == "test":
        environment.wheels()  # and `users`: for tests, which run where no package index can be reached
    engine.ensure()
    base.ensure()
    cluster.ensure_network(sandbox)
    cluster.ensure(sandbox)
    emulator.ensure(sandbox)
    _ensure_password(sandbox)
    say(f"Sandbox '{sandbox.name}' is ready after {durations.spoken(time.monotonic() - started)}.")


def down(sandbox: Sandbox) -> None:
    """Remove what `up` started, and nothing else. Builds stay in the cache directory."""
    emulator.stop(sandbox)
    if engine.attach():
        cluster.delete(sandbox)
    for name in ("kubeconfig", "kubeconfig.new", "password"):
        (sandbox.state / name).unlink(missing_ok=True)
    emulator.forget(sandbox)
    others = [other for other in ("demo", "test") if (CACHE / "run" / other / "kubeconfig").exists()]
    if engine.ours() and not others:
        engine.stop()
    say(f"Sandbox '{sandbox.name}' is removed.")


def exports(sandbox: Sandbox) -> dict[str, str]:
    """Returns the variables with which a shell reaches the cluster, the cache and the emulator."""
    return {
        "PATH": f"{cluster.kubectl(sandbox).parent}:{os.environ['PATH']}",
        "KUBECONFIG": str(sandbox.kubeconfig),
        "REGISTRY_CACHE_ENDPOINT": cluster.endpoint(sandbox),
        "REGISTRY_CACHE_USER": "nodes",
        "REGISTRY_CACHE_PASSWORD": sandbox.password.read_text(),
        "REGISTRY_CACHE_UPSTREAM": f"https://{sandbox.gateway}",
        "REGISTRY_CACHE_UPSTREAM_CA": str(sandbox.ca),
        "REGISTRY_CACHE_UPSTREAM_TOKEN": sandbox.operator_token.read_text().strip(),
        "REGISTRY_CACHE_UPSTREAM_ADMIN": f"https://{sandbox.gateway}/emulator",
        **({"DOCKER_HOST": os.environ["DOCKER_HOST"]} if "DOCKER_HOST" in os.environ else {}),
    }


def _inside(sandbox: Sandbox) -> dict[str, str]:
    """Returns the variables of a control node, for which the emulator takes the place of Google."""
    return {
        "PATH": f"{environment.VENV}/bin:{tools.build('registry')}:{cluster.kubectl(sandbox).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": str(sandbox.kubeconfig),
        "SANDBOX": sandbox.name,
        "SANDBOX_STATE": str(sandbox.state),
        "KIND_EXPERIMENTAL_DOCKER_NETWORK": sandbox.cluster,
        # As behind a company's TLS-inspecting proxy: its address, its CA, and the addresses that bypass it.
        "HTTPS_PROXY": sandbox.proxy,
        "NO_PROXY": "127.0.0.1,localhost,198.18.0.0/15",
        "REQUESTS_CA_BUNDLE": str(sandbox.ca),
    }


_OUTSIDE = "SANDBOX_OUTSIDE"  # the variables that `run` replaced, for sandbox commands inside it


def _enter(sandbox: Sandbox) -> None:
    inside = _inside(sandbox)
    os.environ.setdefault(_OUTSIDE, json.dumps({name: os.environ.get(name) for name in inside}))
    os.environ.update(inside)


def _leave() -> None:
    """Restore the environment from before `run`, which reaches the internet without the emulator."""
    for name, value in json.loads(os.environ.pop(_OUTSIDE, "{}")).items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m sandbox", description=__doc__)
    parser.add_argument("--name", choices=("demo", "test"), default=os.environ.get("SANDBOX", "demo"), help="default: %(default)s")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start the sandbox; the first time, build what it needs")
    commands.add_parser("down", help="remove what `up` started; builds are kept")
    commands.add_parser("env", help="print shell exports to reach the sandbox: eval \"$(make demo-env)\"")
    tool = commands.add_parser("tool", help="run a command in the project's Python environment, without a sandbox")
    run = commands.add_parser("run", help="run a command as the control node, with kubeconfig and the emulator in place of Google")
    for command in (tool, run):
        command.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND ...")
    arguments = parser.parse_args()
    sandbox = Sandbox(arguments.name)
    if arguments.command == "up":
        up(sandbox)
    elif arguments.command == "down":
        down(sandbox)
    elif arguments.command == "env":
        if not (engine.attach() and cluster.exists(sandbox)):
            sys.exit(f"Sandbox '{sandbox.name}' is not running. Start it with 'python3 -m sandbox --name {sandbox.name} up'.")
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in exports(sandbox).items()))
    else:
        environment.ensure()
        if arguments.command == "run":
            engine.attach()
            _enter(sandbox)
        else:
            os.environ["PATH"] = f"{environment.VENV}/bin:{os.environ['PATH']}"
        argv = arguments.argv[1:] if arguments.argv[:1] == ["--"] else arguments.argv
        os.execvp(argv[0], argv)


if __name__ == "__main__":
    main()
