# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the Artifact Registry repositories for an upstream's host and paths.

Private to this collection. Source: https://cloud.google.com/artifact-registry/docs/docker/names, and for gcr.io
https://cloud.google.com/artifact-registry/docs/transition/gcr-repositories.
"""

from __future__ import annotations

import re
import typing as t

# Locations of the repositories for Container Registry hosts. The host is also the ID of the repository.
_GCR_LOCATIONS = {"gcr.io": "us", "us.gcr.io": "us", "eu.gcr.io": "europe", "asia.gcr.io": "asia"}
_HOST = re.compile(r"([a-z][a-z0-9-]*)-docker\.pkg\.dev")
# A project's domain comes first, as in example.com:my-project, or in image references example.com/my-project.
_PROJECT = r"(?:(?P<domain>[a-z0-9-]+(?:\.[a-z0-9-]+)+)[:/])?(?P<project>[a-z][a-z0-9-]+)"
_PATH = re.compile(rf"{_PROJECT}/(?P<id>[a-z][a-z0-9-]*|(?:(?:us|eu|asia)\.)?gcr\.io)")
_GCR_PATH = re.compile(_PROJECT)


def repositories(upstreams: t.Any) -> list[dict[str, str]]:
    """Return the repositories of upstreams, each with its project, location, ID and full name.

    :param upstreams: mappings with C(host) and C(repositories).
    :raises ValueError: for a malformed host or repository, with an example.
    """
    return [_repository(upstream["host"], path) for upstream in upstreams for path in upstream["repositories"]]


def _repository(host: t.Any, path: t.Any) -> dict[str, str]:
    found = _HOST.fullmatch(str(host))
    if host not in _GCR_LOCATIONS and not found:
        raise ValueError(
            f"host '{host}' must be LOCATION-docker.pkg.dev, gcr.io, us.gcr.io, eu.gcr.io or asia.gcr.io."
            " Example: host: us-central1-docker.pkg.dev"
        )
    parts = (_PATH if found else _GCR_PATH).fullmatch(str(path))
    if parts is None:
        form, example = ("project/repository", "my-project/my-repository") if found else ("project", "my-project")
        raise ValueError(
            f"repository '{path}' of {host} must have the form {form}. A project with a domain begins with the domain."
            f" Example: repositories: [{example}, 'example.com:{example}']"
        )
    project = f"{parts['domain']}:{parts['project']}" if parts["domain"] else parts["project"]
    location, identifier = (found[1], parts["id"]) if found else (_GCR_LOCATIONS[host], host)
    name = f"projects/{project}/locations/{location}/repositories/{identifier}"
    return {"project": project, "location": location, "id": identifier, "name": name}
