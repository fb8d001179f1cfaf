# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of images. The text of each error is a message for the user.

Private to this collection.
"""

from __future__ import annotations

import re


class ImageError(Exception):
    """Something that cannot be done with an image. C(output) contains the last lines of the engine's output."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


class EngineError(ImageError):
    """A command of the engine failed."""


class RegistryError(ImageError):
    """The registry gave no usable answer. The text contains the registry's own message."""


class DeniedError(RegistryError):
    """The registry requires a credential, or refuses the given one."""


# Causes and fixes by pattern in the engine's output. The first match is reported.
_DISK_FULL = r"no space left on device|disk quota exceeded"
_REASONS = (
    (_DISK_FULL, "The disk is full. Free some space and run again. Example: {engine} system prune"),
    (
        r"ca-certificates\.crt[\"']?: (file does not exist|no such file|not found)|no CA certificates in the base",
        "base: '{base}' has no CA certificates in /etc/ssl/certs/ca-certificates.crt, so the registry would not trust any upstream."
        " Example: base: docker.io/library/registry:3",
    ),
    (
        r"certificate signed by unknown authority|failed to verify certificate",
        "A certificate is signed by a CA that the build does not trust. Name a file with your company's CA certificates."
        " Example: ca_path: /etc/ssl/certs/company-ca.pem",
    ),
    (
        r"unknown revision|invalid version|missing go\.sum entry|(404|410) (Not Found|Gone)",
        "A go.mod in docker/ requires a version that does not exist, that is not in its go.sum, or that the Go module proxy does not have."
        " Set an existing version in a clone. Example: make pin",
    ),
    (
        r"proxyconnect|dial tcp: lookup|[Tt]emporary failure in name resolution|no such host|network is unreachable",
        "The build cannot reach the Go module proxy. Name a proxy that it can reach, or set build_proxy."
        " Example: goproxy: https://goproxy.example.com",
    ),
)


def is_disk_full(error: EngineError) -> bool:
    return bool(re.search(_DISK_FULL, error.output))


def explained(what: str, error: EngineError, engine: str, base: str) -> ImageError:
    """Return the error of an engine with its cause and fix, if they are known.

    :param what: what could not be done, as a clause.
    """
    for pattern, reason in _REASONS:
        if re.search(pattern, error.output):
            return ImageError(f"{what}. {reason.format(engine=engine, base=base)}", error.output)
    return ImageError(f"{what}: {error}.", error.output)
