# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of the cache's image: in an engine, in a registry and in files.

Private to this collection.
"""

from __future__ import annotations

import hashlib
import pathlib

from . import inputs, reference
from .engine import architecture
from .errors import ImageError


class Image:
    """An image for several platforms.

    :param where: registry and repository.
    :param context: directory of the sources.
    :param others: inputs of the image other than the sources and the platforms.
    """

    def __init__(self, where: tuple[str, str], context: pathlib.Path, platforms: list[str], *others: str) -> None:
        self.registry, self.repository = where
        # podman and clusters need the full name, and docker accepts it too.
        self.name = f"{self.registry}/{self.repository}"
        self.platforms, self.context, self._inputs = platforms, context, (*others, *platforms)
        self.tag = inputs.tag(context, *self._inputs)
        self.reference = f"{self.name}:{self.tag}"

    def require_same_sources(self) -> None:
        """Raise ImageError if the sources have changed since the tag was computed."""
        if inputs.tag(self.context, *self._inputs) != self.tag:
            raise ImageError(f"The sources in {self.context} changed during this run. Run it again.")

    def local(self, platform: str) -> str:
        """Return the name of a platform's image in the engine."""
        return f"{self.reference}-{architecture(platform)}"

    def stem(self, platform: str) -> str:
        """Return the first part of file names for a platform's image. No other image with the same sources has the same."""
        own = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{self.repository.rpartition('/')[2]}-{own}_{self.tag}_{platform.replace('/', '-')}"


def split(name: str) -> tuple[str, str]:
    """Return the registry and the repository of a name. Raise ImageError for an invalid name, or a name with a tag."""
    try:
        found = reference.parse(name)
    except ValueError as error:
        raise ImageError(f"name: {error}") from error
    if found.tag or found.digest:
        raise ImageError(
            f"name: must have no tag, because a build creates its own tag (got '{name}'). Example: name: ghcr.io/acme/registry-cache"
        )
    return found.registry, found.repository
