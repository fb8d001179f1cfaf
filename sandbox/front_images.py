# SPDX-License-Identifier: GPL-3.0-or-later
"""The front's image: pulled where that works, else made from the Debian roots of varnish.py; and put on the nodes."""

from __future__ import annotations

from . import engine, tools, varnish
from .settings import SANDBOX, Sandbox, key
from .steps import Log, step

FRONT_IMAGE = "docker.io/library/varnish:8.0"  # the product's default
_NEWEST_IMAGE = "docker.io/library/varnish:9.0"
_STAND_IN = "registry-cache-sandbox/varnish"
_DEFAULT_VERSION = "7.7"  # stands for 8.0, which no Debian suite has
_EMPTY = ("dev", "proc", "run", "sys", "tmp")


def _make(log: Log, version: str, name: str, stand_in_key: str) -> None:
    root, account = varnish.root(version), varnish.VERSIONS[version].account
    changes = (
        f"LABEL sandbox.key={stand_in_key}",
        f"ENV PATH={varnish.PATH}",
        f"USER {account}",
        "WORKDIR /tmp",
        'CMD ["varnishd", "-V"]',
        "EXPOSE 80",
    )
    skip = [f"--exclude=./{folder}/*" for folder in _EMPTY]
    log.pipe(
        ["tar", "--create", "--directory", str(root), *skip, "."],
        ["docker", "import", *[word for change in changes for word in ("--change", change)], "-", name],
    )


def ensure_front_images(sandbox: Sandbox) -> list[str]:
    """The names of the front's images that the engine now has: the product's default first.

    Other versions are there for `test` alone: where the default can be pulled the newest official one, else both roots.
    """
    others = sandbox.workers > 0
    if not engine.has_image(FRONT_IMAGE):
        _pull(FRONT_IMAGE)
    if not engine.has_image(FRONT_IMAGE) or engine.is_stand_in(FRONT_IMAGE):
        return _ensure_stand_ins(list(varnish.VERSIONS) if others else [_DEFAULT_VERSION])
    if others and not engine.has_image(_NEWEST_IMAGE):
        _pull(_NEWEST_IMAGE)
    return [FRONT_IMAGE, *((_NEWEST_IMAGE,) if others and engine.has_image(_NEWEST_IMAGE) else ())]


def _pull(name: str) -> None:
    with step(f"front image {name}", "the registry that hosts it") as log:
        log.run("docker", "pull", name, check=False)  # judged by what the engine then has


def _ensure_stand_ins(versions: list[str]) -> list[str]:
    names = {version: f"{_STAND_IN}:{version}" for version in versions}
    keys = {v: key(SANDBOX / "front_images.py", varnish.root(v).name, varnish.found(v)) for v in versions}
    missing = [version for version in versions if not engine.has_image(names[version], keys[version])]
    if missing or not engine.has_image(FRONT_IMAGE, keys[_DEFAULT_VERSION]):
        with step(f"front image {FRONT_IMAGE}: stand-in", "docker import") as log:
            for version in missing:
                _make(log, version, names[version], keys[version])
            log.run("docker", "tag", names[_DEFAULT_VERSION], FRONT_IMAGE)
    return [FRONT_IMAGE, *names.values()]


def ensure_on_nodes(sandbox: Sandbox) -> None:
    """The front's images in the containerd of every node; kind asks each node first and loads only what it lacks."""
    names = ensure_front_images(sandbox)
    with step("front images on the nodes", "kind load") as log:
        log.run(tools.build("registry") / "kind", "load", "docker-image", *names, "--name", sandbox.cluster)
