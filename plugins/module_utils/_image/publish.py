# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Publishes built images: not at all, to a registry, or as archives.

Private to this collection.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
import typing as t

from . import registry, upstream
from .engine import EngineChoice
from .errors import DeniedError, EngineError, ImageError, RegistryError, explained
from .image import Image

_NO_RETRY = re.compile(
    r"unauthorized|authentication required|access.* denied|denied:|forbidden|no space left|insufficient_scope", re.I
)
_CREDENTIAL = (
    "Log in to the registry with docker or podman as the user who runs this module, or set username and password, or auth_file."
    " Example: auth_file: ~/.docker/config.json"
)
_sleep = time.sleep


class Keep:
    """Leave the images in the engine. This is also the base class of the other ways to publish.

    :param params: options of module cache_image.
    :param ca: additional CA certificates to trust for the registry.
    """

    def __init__(self, params: dict[str, t.Any], image: Image, engine: EngineChoice, ca: bytes) -> None:
        self.params, self.image, self.engine, self.ca = params, image, engine, ca

    def inspect(self) -> None:
        """Find out what already exists. Raise ImageError."""

    def needed(self) -> list[str]:
        """Return the platforms whose image the engine needs, to publish what is missing."""
        return self.image.platforms

    def is_missing(self) -> bool:
        """Return whether there is something to publish."""
        return False

    def publish(self) -> None:
        """Publish what is missing. Raises ImageError."""

    def result(self) -> dict[str, t.Any]:
        """Return values for the result of the module. Raise ImageError."""
        return {"reference": self.image.reference}

    def explained(self, what: str, error: EngineError) -> ImageError:
        return explained(what, error, self.engine.get().name, self.params["base"])


class Archive(Keep):
    """Save a file for each platform."""

    def inspect(self) -> None:
        self._unsaved = [platform for platform, file in self._files().items() if not os.path.exists(file)]

    def needed(self) -> list[str]:
        return self._unsaved

    def is_missing(self) -> bool:
        return bool(self._unsaved)

    def publish(self) -> None:
        for platform in self._unsaved:
            self._save(platform, self._files()[platform])

    def result(self) -> dict[str, t.Any]:
        return {**super().result(), "archives": self._files()}

    def _files(self) -> dict[str, str]:
        """Return the path of the archive for each platform."""
        folder = self.params["archive_path"]
        return {platform: os.path.join(folder, f"{self.image.stem(platform)}.tar") for platform in self.image.platforms}

    def _save(self, platform: str, file: str) -> None:
        engine = self.engine.get()
        try:
            os.makedirs(self.params["archive_path"], exist_ok=True)
            engine.tag(self.image.local(platform), self.image.reference)
            # Write the archive atomically. podman refuses to overwrite a file.
            with tempfile.TemporaryDirectory(dir=self.params["archive_path"]) as folder:
                part = os.path.join(folder, "part")
                engine.save(self.image.reference, part)
                os.rename(part, file)
        except EngineError as error:
            raise self.explained(f"The archive {file} was not written", error) from error


class Push(Keep):
    """Push an index of all platforms to the registry of the image's name."""

    _digest: str | None = None

    def inspect(self) -> None:
        """Ask the registry for the digest of the tag. Raise ImageError."""
        try:
            self._digest = self._remote(self._credential(), "pull,push").digest(self.image.tag)
        except DeniedError as error:
            raise ImageError(f"{self.image.registry} refuses the credential for {self.image.name} ({error}). {_CREDENTIAL}") from error
        except RegistryError as error:
            raise ImageError(
                f"{self.image.registry} cannot be asked for {self.image.name}: {error}. Name a registry that answers, or save the image to"
                " a file. Example: publish: archive"
            ) from error

    def needed(self) -> list[str]:
        return self.image.platforms if self.is_missing() else []

    def is_missing(self) -> bool:
        return self._digest is None

    def publish(self) -> None:
        if not self.is_missing():
            return
        credential = self._credential()
        auth = registry.auth_file(self.image.registry, credential) if credential else None
        tries = self.params["retries"] + 1
        for tried in range(1, tries + 1):
            try:
                self._push(auth)
                break
            except EngineError as error:
                self._require_another_try(error, tried, tries)
            self.engine.log.write(f"The push failed. Trying again in {2**tried} s.\n")
            _sleep(2**tried)
        self.inspect()
        if self._digest is None:
            raise ImageError(
                f"{self.image.registry} accepted {self.image.reference}, but does not have the tag afterwards. Check its log, or save the"
                " image to a file. Example: publish: archive"
            )

    def result(self) -> dict[str, t.Any]:
        if self._digest is None:
            return super().result()
        if self.params["anonymous_pull"]:
            self._require_anonymous_pull(self._digest)
        return {"digest": self._digest, "reference": f"{self.image.name}@{self._digest}"}

    def _push(self, auth: dict[str, t.Any] | None) -> None:
        images = [self.image.local(platform) for platform in self.image.platforms]
        self.engine.get().push(self.image.reference, images, auth, self.params["insecure"])

    def _require_another_try(self, error: EngineError, tried: int, tries: int) -> None:
        """Raise ImageError if another try would not help, or none is left."""
        what = f"{self.image.reference} was not pushed, and the registry has no such tag"
        hopeless = _NO_RETRY.search(error.output)
        if hopeless and "space" not in hopeless[0]:
            raise ImageError(f"{what}: {self.image.registry} refuses the credential. {_CREDENTIAL}", error.output) from error
        if hopeless or tried == tries:
            raise self.explained(f"{what} (tries: {tried})", error) from error

    def _credential(self) -> registry.Credential | None:
        if self.params["username"]:
            return registry.Credential(self.params["username"], self.params["password"])
        files = [self.params["auth_file"]] if self.params["auth_file"] else registry.auth_files(os.environ)
        return registry.find_credential(self.image.registry, self.image.repository, files)

    def _remote(self, credential: registry.Credential | None, actions: str) -> registry.Repository:
        options: dict[str, t.Any] = {"ca_bundle": self._trusted(), "insecure": self.params["insecure"]}
        return registry.Repository(self.image.registry, self.image.repository, credential, actions, **options)

    def _trusted(self) -> str | None:
        """Return the path of a file with the default and the additional CA certificates for the registry; None without any."""
        if not self.ca or self.params["insecure"]:
            return None
        self._bundle = upstream.ca_bundle(self.ca)
        return self._bundle.name

    def _require_anonymous_pull(self, digest: str) -> None:
        try:
            if self._remote(None, "pull").digest(digest) == digest:
                return
            words = "HTTP 404"
        except RegistryError as error:
            words = str(error)
        raise ImageError(
            f"{self.image.name}@{digest} exists, but {self.image.registry} lets nobody pull it without a credential ({words}). Make the"
            " repository public, or pull with a credential. Example: anonymous_pull: false"
        )


# By value of option publish.
WAYS = {"none": Keep, "push": Push, "archive": Archive}
