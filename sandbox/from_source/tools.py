# SPDX-License-Identifier: GPL-3.0-or-later
"""Go tools, each group built from the pins of its own go.mod."""

from __future__ import annotations

import pathlib
import shutil
import sys

from ..settings import CACHE, KUBERNETES_VERSION, SANDBOX, key
from ..steps import alone, step
from . import golang

_VERSION = "k8s.io/component-base/version"
_MAJOR, _MINOR = KUBERNETES_VERSION.removeprefix("v").split(".")[:2]
# kubeadm refuses to run when it does not know its own version.
_LDFLAGS = {
    "kubernetes": f" -X {_VERSION}.gitVersion={KUBERNETES_VERSION} -X {_VERSION}.gitTreeState=clean"
    f" -X {_VERSION}.gitMajor={_MAJOR} -X {_VERSION}.gitMinor={_MINOR}"
}


def require_go() -> None:
    """:raises SystemExit: without a Go that can build, or fetch, what the modules name."""
    if not shutil.which("go"):
        sys.exit("The sandbox needs Go 1.21 or later on the PATH, which fetches the version that a module names.")


def build(group: str) -> pathlib.Path:
    """The folder of a group's binaries, built unless they are there for these pins."""
    source, flags = SANDBOX / "tools" / group, _LDFLAGS.get(group, "")
    return install(f"Go tools: {group}", source, CACHE / "tools" / f"{group}-{key(source, flags)}", flags)


def install(title: str, source: pathlib.Path, target: pathlib.Path, flags: str = "") -> pathlib.Path:
    """The target, with the tools of a module's go.mod, installed unless they are there.

    :param title: of the step.
    :param flags: of the linker.
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
