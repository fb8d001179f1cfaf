# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cache's image as a module's options want it: its names in an engine, in a registry and in files.

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
    :param context: the folder of the sources.
    :param others: what goes into the image besides the sources and the platforms.
    """

    def __init__(self, where: tuple[str, str], context: pathlib.Path, platforms: list[str], *others: str) -> None:
        self.registry, self.repository = where
        # As podman and clusters complete a short name; docker takes it as well.
        self.name = f"{self.registry}/{self.repository}"
        self.platforms, self.context, self._inputs = platforms, context, (*others, *platforms)
        self.tag = inputs.tag(context, *self._inputs)
        self.reference = f"{self.name}:{self.tag}"

    def require_same_sources(self) -> None:
        """:raises ImageError: if the sources have changed since the tag was made."""
        if inputs.tag(self.context, *self._inputs) != self.tag:
            raise ImageError(f"The sources in {self.context} changed while this run read them. Run it again.")

    def local(self, platform: str) -> str:
        """The name of a platform's image in the engine."""
        return f"{self.reference}-{architecture(platform)}"

    def stem(self, platform: str) -> str:
        """The first part of the names of files that belong to a platform's image, and to no other image of the same sources."""
        own = hashlib.sha256(self.name.encode()).hexdigest()[:8]
        return f"{self.repository.rpartition('/')[2]}-{own}_{self.tag}_{platform.replace('/', '-')}"


def split(name: str) -> tuple[str, str]:
    """The registry and the repository of a name. Raises ImageError for what is none, or has a tag."""
    try:
        found = reference.parse(name)
    except ValueError as error:
        raise ImageError(f"name: {error}") from error
    if found.tag or found.digest:
        raise ImageError(f"name '{name}' must have no tag, since a build makes its own. Example: name: ghcr.io/acme/registry-cache")
    return found.registry, found.repository
