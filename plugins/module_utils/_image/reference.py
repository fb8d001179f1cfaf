# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image references in the grammar of github.com/distribution/reference v0.6.0, which docker, containerd and the kubelet use.

Private to this collection. tests/reference compares it with that library.
"""

from __future__ import annotations

import re
import typing as t

_DOMAIN_COMPONENT = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_HOST = rf"(?:{_DOMAIN_COMPONENT}(?:\.{_DOMAIN_COMPONENT})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
# The algorithms of github.com/opencontainers/go-digest.
_DIGEST = r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}"
_REFERENCE = re.compile(
    rf"(?P<registry>{_HOST})/(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    rf"(?::(?P<tag>[\w][\w.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?",
    re.ASCII,
)
# Format that docker takes for the ID of an image.
_IDENTIFIER = re.compile("[0-9a-f]{64}")
_REPOSITORY_LIMIT = 255
_HUB, _LEGACY_HUB = "docker.io", "index.docker.io"
EXAMPLE = "us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0"


class ImageReference(t.NamedTuple):
    """The parts of an image reference. C(tag) and C(digest) are None if the reference has none."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def version(self) -> str:
        """The version for a request: the digest, or the tag, or C(latest)."""
        return self.digest or self.tag or "latest"


def is_host(text: t.Any) -> bool:
    """Return whether a text can be the registry of a reference: a host, with an optional port."""
    return isinstance(text, str) and re.fullmatch(_HOST, text) is not None


def canonical_host(host: str) -> str:
    """Return a registry's host in its normal form: in lower case, and C(docker.io) for Docker Hub."""
    host = host.lower()
    return _HUB if host == _LEGACY_HUB else host


def parse(text: str) -> ImageReference:
    """Split a reference as docker does. A first part without a dot, colon, capital letter or C(localhost) is not a registry.

    Names that the library accepts although no registry can have such a host, such as C(a_b.c/x), are refused.

    :raises ValueError: for an invalid reference, with an example.
    """
    refused = f"'{text}' is not a valid image reference"
    if _IDENTIFIER.fullmatch(text):
        raise ValueError(f"{refused}, but the ID of an image. Example: {EXAMPLE}")
    first, slash, rest = text.partition("/")
    if not (slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first)):
        first, rest = _HUB, text
    elif first == _LEGACY_HUB:
        first = _HUB
    if first == _HUB and "/" not in rest:
        rest = f"library/{rest}"
    match = _REFERENCE.fullmatch(f"{first}/{rest}")
    if not match:
        raise ValueError(f"{refused}. Example: {EXAMPLE}")
    if len(match["repository"]) > _REPOSITORY_LIMIT:
        raise ValueError(
            f"{refused}: its repository must have at most {_REPOSITORY_LIMIT} characters (got {len(match['repository'])})."
            f" Example: {EXAMPLE}"
        )
    return ImageReference(match["registry"], match["repository"], match["tag"], match["digest"])
