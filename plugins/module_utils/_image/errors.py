# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can go wrong with an image. The text of each error is a message for the user.

Private to this collection.
"""

from __future__ import annotations

import re


class ImageError(Exception):
    """Something that cannot be done with an image; C(output) holds the engine's last lines."""

    def __init__(self, text: str, output: str = "") -> None:
        super().__init__(text)
        self.output = output


class EngineError(ImageError):
    """A command of the engine failed."""


class RegistryError(ImageError):
    """The registry gave no usable answer; the text holds its own words."""


class DeniedError(RegistryError):
    """The registry asks for a credential, or for another one."""


# What an engine's last lines mean, and the fix. The first that matches is reported.
_DISK_FULL = r"no space left on device|disk quota exceeded"
_REASONS = (
    (_DISK_FULL, "The disk is full. Make room, for instance by '{engine} system prune', and run again."),
    (
        r"ca-certificates\.crt[\"']?: (file does not exist|no such file|not found)|no CA certificates in the base",
        "base '{base}' has no CA certificates in /etc/ssl/certs/ca-certificates.crt, without which the registry trusts no upstream."
        " Example: base: docker.io/library/registry:3",
    ),
    (
        r"certificate signed by unknown authority|failed to verify certificate",
        "A certificate is signed by a CA that the build does not know. Name your company's CA certificates."
        " Example: ca_path: /etc/ssl/certs/company-ca.pem",
    ),
    (
        r"unknown revision|invalid version|missing go\.sum entry|(404|410) (Not Found|Gone)",
        "A go.mod of docker/ pins a version that does not exist, that its go.sum does not know, or that the Go module proxy lacks."
        " 'make pin' in a clone sets one that exists.",
    ),
    (
        r"proxyconnect|dial tcp: lookup|[Tt]emporary failure in name resolution|no such host|network is unreachable",
        "The build does not reach the Go module proxy. Name one that it reaches, or the proxy that leads there."
        " Example: goproxy: https://goproxy.example.com",
    ),
)


def is_disk_full(error: EngineError) -> bool:
    return bool(re.search(_DISK_FULL, error.output))


def explained(what: str, error: EngineError, engine: str, base: str) -> ImageError:
    """An engine's failure with its meaning, where that is known.

    :param what: what did not happen, as a clause.
    """
    for pattern, reason in _REASONS:
        if re.search(pattern, error.output):
            return ImageError(f"{what}. {reason.format(engine=engine, base=base)}", error.output)
    return ImageError(f"{what}: {error}.", error.output)
