# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds Go tools, each group from the pins of its go.mod."""

from __future__ import annotations

import pathlib
import shutil
import sys

from ..settings import CACHE, KUBERNETES_VERSION, SANDBOX, key
from ..steps import alone, step
from . import golang

_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
# kubeadm does not run without knowing its version.
_LDFLAGS = {
    "kubernetes": f" -X {_VERSION}.gitVersion={KUBERNETES_VERSION} -X {_VERSION}.gitTreeState=clean"
    f" -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
}


def require_go() -> None:
    """Check that Go is installed. Raises SystemExit if not."""
    if not shutil.which("go"):
        sys.exit("Go is not on the PATH. Install Go 1.21 or later; it downloads the version that a module needs.")


def build(group: str) -> pathlib.Path:
    """Returns the folder of a group's programs, and builds them unless they exist for these pins."""
    source, flags = SANDBOX / "tools" / group, _LDFLAGS.get(group, "")
    return install(f"Go tools: {group}", source, CACHE / "tools" / f"{group}-{key(source, flags)}", flags)


def install(title: str, source: pathlib.Path, target: pathlib.Path, flags: str = "") -> pathlib.Path:
    """Install the tools of a module's go.mod into `target` unless they exist. Returns `target`.

    :param title: the title of the step.
    :param flags: further options for the linker.
    """
    ready = target / ".ready"
    if not ready.exists():
        require_go()
        with step(title, "the Go module proxy, then the compiler") as log, alone(target.name):
            if not ready.exists():
                shutil.rmtree(target, ignore_errors=True)
                target.mkdir(parents=True)
                env = {"CGO_ENABLED": "0", "GOBIN": str(target), "GOFLAGS": "-mod=readonly"}
                build = golang.Build("install", "tool", source, env, ("-trimpath", f"-ldflags=-s -w{flags}"))
                golang.run(log, build)
                ready.touch()
            else:
                log.worked = False
    return target
