# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds the cache's image and its SBOMs with docker or podman.

Private to this collection.
"""

from __future__ import annotations

import os
import pathlib
import tempfile
import typing as t

from . import inputs
from .engine import EngineChoice
from .errors import EngineError, ImageError, explained, is_disk_full
from .image import Image

_EXAMPLES = {"base": "registry:3", "builder": "golang:1-alpine"}


class Build:
    """The images in an engine, and their SBOMs in a directory.

    :param params: options of module cache_image.
    :param ca: additional CA certificates to trust during the build.
    """

    def __init__(self, params: dict[str, t.Any], image: Image, engine: EngineChoice, ca: bytes) -> None:
        self._params, self._image, self._engine, self._ca = params, image, engine, ca

    def missing(self, platforms: t.Iterable[str]) -> list[str]:
        """Return those of the platforms whose image the engine does not have. Raise ImageError."""
        return [platform for platform in platforms if self._engine.get().platform_of(self._image.local(platform)) != platform]

    def without_sbom(self) -> list[str]:
        """Return the platforms without an SBOM; none if no SBOMs are wanted."""
        return [platform for platform in self._image.platforms if self._params["sbom_path"] and not os.path.isdir(self._sbom(platform))]

    def make(self, images: list[str], sboms: list[str]) -> None:
        """Build the images and the SBOMs of these platforms. Raises ImageError."""
        if not images and not sboms:
            return
        engine = self._engine.get()
        try:
            with tempfile.TemporaryDirectory(prefix="registry-cache-") as folder:
                image, sbom = pathlib.Path(folder, "image"), pathlib.Path(folder, "sbom")
                inputs.copy(self._image.context, image, self._ca)
                inputs.copy(self._image.context / "sbom", sbom, self._ca)
                self._image.require_same_sources()
                self._pull("builder", engine.platform)
                network = self._params["build_network"]
                for platform in images:
                    self._pull("base", platform)
                    args, name = {**self._args(), "BASE": self._params["base"]}, self._image.local(platform)
                    engine.build(str(image), name, platform, args, self._labels(), network)
                    engine.check_platform(name, platform)
                for platform in sboms:
                    args, name = {**self._args(), "IMAGE": self._image.local(platform)}, f"{self._image.local(platform)}-sbom"
                    engine.build(str(sbom), name, platform, args, {}, network)
                    self._write_sbom(platform, name)
        except EngineError as error:
            raise explained("The image was not built", error, engine.name, self._params["base"]) from error

    def _pull(self, option: str, platform: str) -> None:
        image, engine = self._params[option], self._engine.get()
        try:
            engine.pull(image, platform)
        except EngineError as error:
            if is_disk_full(error):
                raise explained(f"{image} was not pulled", error, engine.name, "") from error
            raise ImageError(
                f"{option}: '{image}' cannot be pulled for {platform}, and {engine.name} has no copy of it for that platform. Name an image"
                f" and a version that exist. Example: {option}: docker.io/library/{_EXAMPLES[option]}",
                error.output,
            ) from error

    def _args(self) -> dict[str, str]:
        """Return the build arguments for images and SBOMs."""
        proxies = inputs.proxy_args(self._params["build_proxy"], os.environ)
        goproxy = {"GOPROXY": self._params["goproxy"]} if self._params["goproxy"] else {}
        return {"BUILDER": self._params["builder"], **proxies, **goproxy}

    def _labels(self) -> dict[str, str]:
        base = self._params["base"]
        digest = base.partition("@")[2] or self._engine.get().digest_of(base) or ""
        found = {**self._params["labels"], "base.name": base, "base.digest": digest}
        return {f"org.opencontainers.image.{label}": text for label, text in found.items() if text}

    def _sbom(self, platform: str) -> str:
        return os.path.join(self._params["sbom_path"], self._image.stem(platform))

    def _write_sbom(self, platform: str, name: str) -> None:
        """Copy an SBOM from the image with this name, atomically. Raise EngineError."""
        engine = self._engine.get()
        os.makedirs(self._params["sbom_path"], exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._params["sbom_path"]) as folder:
            part = os.path.join(folder, "part")
            os.mkdir(part, 0o755)
            engine.copy_out(name, part)
            engine.run("rmi", name)
            os.rename(part, self._sbom(platform))
