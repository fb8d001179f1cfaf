# SPDX-License-Identifier: GPL-3.0-or-later
"""The programs of the cache's image, built for this machine from this clone and kept in the cache directory."""

from __future__ import annotations

import pathlib
import re

from ..settings import CACHE, ROOT, key
from ..steps import alone, step
from . import golang, tools

SOURCE = ROOT / "docker" / "registry"
_HELPER = "github.com/GoogleCloudPlatform/docker-credential-gcr/v2"


def toolchain() -> dict[str, str]:
    """Returns the variables with which the Go command uses the toolchain of the cache's modules. Go downloads it if needed."""
    found = re.search(r"(?m)^toolchain (\S+)", (SOURCE / "go.mod").read_text())
    assert found
    return {"GOTOOLCHAIN": f"{found[1]}+auto"}


def registry() -> str:
    """Returns the path of the cache's program, and builds it unless it exists for this source."""
    return _build("the cache's program", CACHE / "bench" / f"registry-{key(SOURCE)}" / "registry", ".")


def credential_helper() -> str:
    """Returns the path of docker-credential-gcr, and builds it unless it exists for this pin."""
    pin = key(SOURCE / "go.mod", SOURCE / "go.sum")
    return _build("docker-credential-gcr", CACHE / "bench" / f"helper-{pin}" / "docker-credential-gcr", _HELPER)


def _build(title: str, target: pathlib.Path, package: str) -> str:
    if not target.exists():
        tools.require_go()
        with step(title, "the Go module proxy, then the compiler") as log, alone(target.parent.name):
            # If another process built it meanwhile, Go finds it in its build cache.
            target.parent.mkdir(parents=True, exist_ok=True)
            env = {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"}
            golang.run(log, golang.Build("build", package, SOURCE, env, ("-trimpath", "-ldflags=-s -w"), target))
    return str(target)
