# SPDX-License-Identifier: GPL-3.0-or-later
"""The image of each node: with three versions of containerd if the images are made here."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Mapping

from .. import debian, engine
from ..from_source import tools
from ..settings import CACHE, KUBERNETES_VERSION, SANDBOX, key
from ..steps import alone, step
from . import kind_node

NODES = 3  # the control plane and two workers
_SUITE = "trixie"  # Debian 13
_CONTAINERD_2 = SANDBOX / "node" / "containerd-2" / "etc" / "containerd" / "config.toml"
_PROGRAMS = ("containerd", "containerd-shim-runc-v2", "ctr")
# Checks that the programs run on Debian 12's C library, which is too old for Debian 13's runc, and read the configuration.
_PROOF = """\
for program in containerd-shim-runc-v2 ctr runc; do
  "$program" -v
done
containerd --version | grep -F " $1."
containerd config dump > /dev/null
"""


def ensure() -> list[str]:
    """Returns the image of each node, the control plane first: with the containerd of Debian 12, of Debian 13, and the newest.

    If kind's own node image can be pulled, all nodes use it. Its containerd is current.
    """
    base = kind_node.ensure()
    if not base.startswith(kind_node.NODE_IMAGE):
        return [base] * NODES
    debian_13, newest = _debian_13(), tools.build("containerd")
    config = {_CONTAINERD_2: "/etc/containerd/config.toml"}
    return [
        base,
        _ensure("1.7", base, _programs(debian_13 / "usr/bin"), debian_13.name),
        _ensure("2", base, {**_programs(newest), **config}, newest.name, key(_CONTAINERD_2)),
    ]


def _programs(folder: pathlib.Path) -> dict[pathlib.Path, str]:
    return {folder / program: f"/usr/bin/{program}" for program in _PROGRAMS}


def _debian_13() -> pathlib.Path:
    """Returns the folder with the files of Debian 13's containerd."""
    target = CACHE / f"containerd-{_SUITE}"
    ready = target.with_name(f"{target.name}.ready")
    if ready.exists():
        return target
    debian.ensure({"debootstrap": "debootstrap"})
    with step("containerd of Debian 13", "the package mirror") as log, alone(target.name):
        if ready.exists():
            log.worked = False
            return target
        download = target.with_name(f"{target.name}.download")
        for folder in (target, download):
            shutil.rmtree(folder, ignore_errors=True)
        # Unlike apt, debootstrap needs no package source for the suite. It checks the archive's signature.
        log.run("debootstrap", "--variant=minbase", "--download-only", "--include=containerd", _SUITE, download)
        (archive,) = (download / "var/cache/apt/archives").glob("containerd_*.deb")
        log.run("dpkg-deb", "--extract", archive, target)
        shutil.rmtree(download)
        ready.touch()
    return target


def _ensure(containerd: str, base: str, files: Mapping[pathlib.Path, str], *parts: str) -> str:
    """Returns the name of a node image with another containerd, and makes it unless it exists for these parts.

    :param containerd: the beginning of its version.
    :param files: paths in the image, by file.
    :param parts: what the image depends on, for its key.
    """
    name = f"{kind_node.NODE_IMAGE}:{KUBERNETES_VERSION}-containerd-{containerd}"
    image_key = key(SANDBOX / "images" / "nodes.py", engine.image_id(base), *parts)
    if not engine.has_image(name, image_key):
        container = f"registry-cache-sandbox-node-{os.getpid()}"
        how = ("--detach", "--privileged", "--network", "none", "--entrypoint", "sleep", "--name", container)
        with step(f"node image with containerd {containerd}", "docker commit") as log:
            log.run("docker", "run", *how, base, "infinity")
            try:
                for file, place in files.items():
                    log.run("docker", "cp", file, f"{container}:{place}")
                log.run("docker", "exec", container, "sh", "-euxc", _PROOF, "sh", containerd)
                # docker commit would keep this container's command line.
                back = (f"LABEL sandbox.key={image_key}", 'ENTRYPOINT ["/usr/local/bin/node-entrypoint"]', "CMD []")
                flags = [word for text in back for word in ("--change", text)]
                log.run("docker", "commit", *flags, container, name)
            finally:
                log.run("docker", "rm", "--force", "--volumes", container, check=False)
    return name
