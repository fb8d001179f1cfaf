# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image references, by the grammar of github.com/distribution/reference.

Private to this collection.
"""

from __future__ import annotations

import re
import typing as t

_HOST = r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>{_HOST})/)?(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?",
    re.ASCII,
)
EXAMPLE = "us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0"


class ImageReference(t.NamedTuple):
    """The parts of a reference; C(tag) and C(digest) are None where it has none."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def version(self) -> str:
        """What a manifest is asked for by: the digest, else the tag, else C(latest)."""
        return self.digest or self.tag or "latest"


def is_host(text: t.Any) -> bool:
    """Whether it can stand before a repository: a host, with its port where it has one."""
    return isinstance(text, str) and re.fullmatch(_HOST, text) is not None


def parse(text: str) -> ImageReference:
    """Split a reference as docker does: a first part without dot, colon or C(localhost) is no registry.

    :raises ValueError: if it is no reference; the message holds an example.
    """
    first, slash, _rest = text.partition("/")
    named = bool(slash) and ("." in first or ":" in first or first == "localhost" or first.lower() != first)
    match = _REFERENCE.fullmatch(text if named else f"docker.io/{text}")
    if not match:
        raise ValueError(f"'{text}' is not an image reference. Example: {EXAMPLE}")
    registry, repository = match["registry"], match["repository"]
    if registry == "docker.io" and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(registry, repository, match["tag"], match["digest"])
