# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of Artifact Registry repositories.

Private to this collection. Source of the rules: the Artifact Registry v1 discovery document.
"""

from __future__ import annotations

import re

from .client import GcpError

API = "https://artifactregistry.googleapis.com/v1"
# Repositories that replace the Container Registry hosts of the same names. Each exists in one location only.
DOMAINS = {"gcr.io": "us", "us.gcr.io": "us", "eu.gcr.io": "europe", "asia.gcr.io": "asia"}
_LOCATION = re.compile(r"[a-z][a-z0-9-]*")
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# Full name of a repository.
REPOSITORY = re.compile(
    rf"projects/[\w.:-]+/locations/[\w-]+/repositories/([\w-]+|{'|'.join(map(re.escape, DOMAINS))})", re.ASCII
)


def check_location(location: str) -> None:
    """Raise GcpError unless it can be a region or multi-region."""
    if not _LOCATION.fullmatch(location):
        raise GcpError(f"location: must be a region or multi-region (got '{location}'). Example: location: us-central1")


def check_repository_id(repository_id: str, location: str) -> None:
    """Raise GcpError unless Google accepts this repository ID in this location."""
    if DOMAINS.get(repository_id, location) != location:
        raise GcpError(
            f"location: repository {repository_id} cannot be in '{location}'. Choose its own location."
            f" Example: location: {DOMAINS[repository_id]}"
        )
    if repository_id not in DOMAINS and not _ID.fullmatch(repository_id):
        raise GcpError(
            "repository_id: must have at most 63 characters (a-z, 0-9, '-'), begin with a letter and not end with '-', or be one of"
            f" {', '.join(DOMAINS)} (got '{repository_id}'). Example: repository_id: my-images"
        )
