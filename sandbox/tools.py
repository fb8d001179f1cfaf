# SPDX-License-Identifier: GPL-3.0-or-later
"""Go tools, each group built from the pins of its own go.mod."""

from __future__ import annotations

import pathlib
import shutil
import sys

from .settings import CACHE, KUBERNETES_VERSION, SANDBOX, key
from .steps import step

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
    source = SANDBOX / "tools" / group
    target = CACHE / "tools" / f"{group}-{key(source, _LDFLAGS.get(group, ''))}"
    if not (target / ".ready").exists():
        require_go()
        with step(f"Go tools: {group}", "the Go module proxy, then the compiler") as log:
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            log.run(
                *["go", "install", "-trimpath", f"-ldflags=-s -w{_LDFLAGS.get(group, '')}", "tool"],
                cwd=source,
                env={"CGO_ENABLED": "0", "GOBIN": str(target), "GOFLAGS": "-mod=readonly"},
            )
            (target / ".ready").touch()
    return target
