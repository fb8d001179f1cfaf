# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of Artifact Registry's repositories.

Private to this collection. Source of the rules: the Artifact Registry v1 discovery document.
"""

from __future__ import annotations

import re

from .client import GcpError

API = "https://artifactregistry.googleapis.com/v1"
# Repositories that took over Container Registry's hosts, whose names they have; each is in one location only.
DOMAINS = {"gcr.io": "us", "us.gcr.io": "us", "eu.gcr.io": "europe", "asia.gcr.io": "asia"}
_LOCATION = re.compile(r"[a-z][a-z0-9-]*")
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
# The full name of a repository.
REPOSITORY = re.compile(
    rf"projects/[\w.:-]+/locations/[\w-]+/repositories/([\w-]+|{'|'.join(map(re.escape, DOMAINS))})", re.ASCII
)


def check_location(location: str) -> None:
    """:raises GcpError: unless it may be a region or multi-region."""
    if not _LOCATION.fullmatch(location):
        raise GcpError(f"location '{location}' is no region or multi-region. Example: location: us-central1")


def check_repository_id(repository_id: str, location: str) -> None:
    """:raises GcpError: unless the id is one that Google takes in that location."""
    if DOMAINS.get(repository_id, location) != location:
        raise GcpError(
            f"location '{location}' cannot hold repository {repository_id}. Example: location: {DOMAINS[repository_id]}"
        )
    if repository_id not in DOMAINS and not _ID.fullmatch(repository_id):
        raise GcpError(
            f"repository_id '{repository_id}' is not an id that Google takes: at most 63 of a-z, 0-9 and '-', the first a letter,"
            f" the last no '-'; or {', '.join(DOMAINS)}. Example: repository_id: my-images"
        )
