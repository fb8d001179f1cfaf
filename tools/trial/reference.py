# SPDX-License-Identifier: GPL-3.0-or-later
"""The image reference in UPSTREAM: its registry, and its name in the cache."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from sandbox.settings import ROOT

from .errors import Refused

# Makes the collection's modules importable, as in an installed collection.
sys.path.append(str(ROOT / "playbooks" / "collections"))

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference

_EXAMPLE = "for example UPSTREAM=ghcr.io/owner/image:1.0"


@dataclass(frozen=True)
class Reference:
    """An image in a registry. `version`: a tag or digest."""

    host: str
    repository: str
    version: str

    @property
    def url(self) -> str:
        """The URL of the registry; HTTP on loopback, as with docker."""
        if self.host == "docker.io":
            return "https://registry-1.docker.io"
        name = self.host.rpartition(":")[0] or self.host
        scheme = "http" if name == "localhost" or name.startswith("127.") or self.host.startswith("[::1]") else "https"
        return f"{scheme}://{self.host}"

    @property
    def path(self) -> str:
        """The part of the reference after the host."""
        return f"{self.repository}{'@' if ':' in self.version else ':'}{self.version}"

    def __str__(self) -> str:
        return f"{self.host}/{self.path}"


def parse(text: str) -> Reference:
    """Returns the reference in a text.

    :raises Refused: it does not name a registry and a repository.
    """
    host, _slash, rest = text.partition("/")
    if "://" in text:
        raise Refused(f"UPSTREAM={text}: leave out the scheme, {_EXAMPLE}")
    if not rest:
        raise Refused(f"UPSTREAM={text} must name a registry and a repository, {_EXAMPLE}")
    try:
        found = image_reference.parse(text)
    except ValueError:
        raise Refused(f"UPSTREAM={text} is not an image reference, {_EXAMPLE}") from None
    reference = Reference(found.registry, found.repository, found.version)
    if found.registry != host:
        raise Refused(f"UPSTREAM={text} must begin with the registry's host, for example UPSTREAM={reference}")
    return reference
