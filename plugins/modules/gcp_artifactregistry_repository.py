#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_artifactregistry_repository
short_description: Manage an image repository in Google Artifact Registry
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates, updates and deletes a repository of format C(DOCKER).
  - Google cannot change the mode, the format, or the upstream of a remote repository. The module refuses other values for an existing
    repository. The same O(repository_id) in another O(location) is another repository.
  - Cleanup policies, encryption keys and credentials for upstreams are not changed.
options:
  location:
    description: Region or multi-region, such as V(us-central1) or V(europe).
    type: str
    required: true
  repository_id:
    description:
      - ID of the repository. It has at most 63 characters (C(a-z), C(0-9), C(-)), and begins with a letter.
      - V(gcr.io) and V(us.gcr.io) with O(location=us), V(eu.gcr.io) with O(location=europe) and V(asia.gcr.io) with O(location=asia)
        are the repositories for the Container Registry hosts of these names.
    type: str
    required: true
  description:
    description: Description of the repository. If not set, the existing one is kept.
    type: str
  labels:
    description:
      - Labels of the repository. They replace all existing labels, so a key that is not listed is removed.
      - If not set, existing labels are kept.
    type: dict
  mode:
    description:
      - V(standard) stores pushed images, V(remote) caches an upstream, and V(virtual) combines other repositories under one name.
      - If neither this, O(remote) nor O(virtual) is set, a new repository is V(standard).
    type: str
    choices: [standard, remote, virtual]
  remote:
    description: Settings of a V(remote) repository. Required to create one.
    type: dict
    suboptions:
      upstream:
        description:
          - V(docker_hub), or the URL of a registry, such as V(https://quay.io).
          - Another Artifact Registry repository is named by its URL or its full name.
        type: str
        required: true
  virtual:
    description: Settings of a V(virtual) repository.
    type: dict
    suboptions:
      policies:
        description: Repositories to combine. They replace all existing policies.
        type: list
        elements: dict
        required: true
        suboptions:
          id:
            description: ID of the policy. It must be unique in the list.
            type: str
            required: true
          repository:
            description: Full name of the repository, as C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
            type: str
            required: true
          priority:
            description: Priority of the repository. Repositories with a higher value are searched first.
            type: int
            required: true
  state:
    description: Whether the repository must exist. V(absent) also deletes its images.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - pullthrough.registry_cache.attributes
attributes:
  diff_mode:
    description: Returns the repository before and after.
    support: full
seealso:
  - module: pullthrough.registry_cache.gcp_artifactregistry_repository_info
  - module: pullthrough.registry_cache.gcp_iam_member
"""

EXAMPLES = r"""
- name: Create a repository for the company's images
  pullthrough.registry_cache.gcp_artifactregistry_repository:
    project: my-project
    location: us-central1
    repository_id: my-images
    labels:
      team: platform

- name: Create a cache for Docker Hub
  pullthrough.registry_cache.gcp_artifactregistry_repository:
    project: my-project
    location: us-central1
    repository_id: docker-hub
    remote:
      upstream: docker_hub

- name: Combine both under one name, and search the company's images first
  pullthrough.registry_cache.gcp_artifactregistry_repository:
    project: my-project
    location: us-central1
    repository_id: all-images
    virtual:
      policies:
        - id: own
          repository: projects/my-project/locations/us-central1/repositories/my-images
          priority: 20
        - id: docker-hub
          repository: projects/my-project/locations/us-central1/repositories/docker-hub
          priority: 10
"""

RETURN = r"""
repository:
  description:
    - Repository as the API returns it. In check mode, the expected result.
    - C(registryUri) is the address for pulls.
  returned: success
  type: dict
  sample:
    name: projects/my-project/locations/us-central1/repositories/my-images
    format: DOCKER
    mode: STANDARD_REPOSITORY
    labels:
      team: platform
    registryUri: us-central1-docker.pkg.dev/my-project/my-images
"""

import re
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.artifact_registry import (
    API,
    REPOSITORY,
    check_location,
    check_repository_id,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError, check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.resource import Resource
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import STATE, gcp_module, result, run

_MODES = {"standard": "STANDARD_REPOSITORY", "remote": "REMOTE_REPOSITORY", "virtual": "VIRTUAL_REPOSITORY"}
_DOCKER_HUB = "https://registry-1.docker.io"
_UPSTREAM = re.compile(r"docker_hub|https?://[^\s/]+(/\S*)?|projects/[^\s/]+/locations/[^\s/]+/repositories/[^\s/]+")
# URL of an Artifact Registry repository as an upstream.
_ADDRESS = re.compile(r"(?:https://)?([a-z0-9-]+)-docker\.pkg\.dev/((?:[a-z0-9.-]+\.[a-z]+/)?[^/]+)/([^/]+)")
_LABEL_KEY = re.compile(r"[^\W\dA-Z][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_MAX_LABELS = 64


def _upstream(repository: dict[str, t.Any]) -> str:
    """Return the upstream of a remote repository as in the option. The API has several fields for it."""
    config = repository.get("remoteRepositoryConfig") or {}
    docker = config.get("dockerRepository", {})
    if docker.get("publicRepository") == "DOCKER_HUB":
        return "docker_hub"
    uri = docker.get("customRepository", config.get("commonRepository", {})).get("uri", "")
    return _normal_upstream(uri)


def _normal_upstream(upstream: str) -> str:
    return "docker_hub" if upstream.rstrip("/") == _DOCKER_HUB else upstream.rstrip("/")


def _same_upstream(one: str, other: str) -> bool:
    """Return whether two upstreams are the same. An Artifact Registry repository has a URL and a full name."""
    names = [_full_name(upstream) for upstream in (one, other)]
    projects = [name.split("/")[1] for name in names if name.startswith("projects/")]
    if len(projects) == 2 and projects[0].isdigit() != projects[1].isdigit():
        # Google may return the project's number instead of its ID, so compare only the rest.
        names = [name.split("/", 2)[2] for name in names]
    return names[0] == names[1]


def _full_name(upstream: str) -> str:
    """Return the full name of an Artifact Registry repository, or another upstream unchanged."""
    if address := _ADDRESS.fullmatch(upstream):
        location, project, name = address.groups()
        return f"projects/{project.replace('/', ':')}/locations/{location}/repositories/{name}"
    return re.sub(r"^(https:)?//artifactregistry\.googleapis\.com/(v1/)?(?=projects/)", "", upstream)


class _Repository(Resource):
    added: t.ClassVar = {"format": "DOCKER", "mode": _MODES["standard"]}

    def same(self, field: str, current: t.Any, wanted: t.Any) -> bool:
        if field == "remoteRepositoryConfig":
            return _same_upstream(_upstream({field: current}), _upstream({field: wanted}))
        if field != "virtualRepositoryConfig":
            return current == wanted
        one, other = (
            sorted((policy.get("id", ""), policy.get("repository", ""), policy.get("priority", 0)) for policy in policies)
            for policies in ((config or {}).get("upstreamPolicies", []) for config in (current, wanted))
        )
        return one == other

    def check(self, current: dict[str, t.Any], wanted: dict[str, t.Any]) -> None:
        """Refuse changes that Google does not allow for an existing repository. Raise GcpError."""
        if not current:
            if wanted.get("mode") == _MODES["remote"] and "remoteRepositoryConfig" not in wanted:
                raise GcpError(
                    f"remote.upstream: it is required to create {self.name}. Name what to cache. Example: remote: {{upstream: docker_hub}}"
                )
            return
        other = (
            "Choose another repository_id, or delete this repository and its images with state: absent."
            " Example: repository_id: my-other-images"
        )
        if current.get("format", "DOCKER") != "DOCKER":
            raise GcpError(f"repository_id: {self.name} must have format DOCKER (got {current['format']}). {other}")
        mode = current.get("mode", _MODES["standard"])
        if "mode" in wanted and mode != wanted["mode"]:
            is_, asked = ({full: short for short, full in _MODES.items()}.get(one, one) for one in (mode, wanted["mode"]))
            raise GcpError(f"mode: Google cannot change {self.name} from {is_} to {asked}. {other}")
        if "remoteRepositoryConfig" in wanted and not _same_upstream(_upstream(current), _upstream(wanted)):
            raise GcpError(
                f"remote.upstream: Google cannot change {self.name} from {_upstream(current)} to {_upstream(wanted)}. {other}"
            )

    def create(self, wanted: dict[str, t.Any]) -> None:
        parent, repository_id = self.url.rsplit("/", 1)
        self.act("POST", parent, body={**self.added, **wanted}, params={"repositoryId": repository_id})

    def update(self, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        # Unlike other changes, an update is not a long-running operation.
        return self.client.request("PATCH", self.url, self.name, body=fields, params={"updateMask": ",".join(fields)})


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    check_location(params["location"])
    check_repository_id(params["repository_id"], params["location"])
    for kind in ("remote", "virtual"):
        if params[kind] is not None and params["mode"] not in (None, kind):
            raise GcpError(f"{kind}: it needs mode {kind} (got {params['mode']}). Remove one of the two options. Example: mode: {kind}")
    labels = params["labels"] or {}
    if len(labels) > _MAX_LABELS:
        raise GcpError(
            f"labels: at most {_MAX_LABELS} are allowed (got {len(labels)}). Remove some of them. Example: labels: {{team: platform}}"
        )
    for key, value in labels.items():
        # YAML reads unquoted numbers and booleans as such.
        if not isinstance(value, str) or value != value.lower() or not _LABEL_VALUE.fullmatch(value):
            raise GcpError(
                f"labels.{key}: must be a text of at most 63 lowercase letters, digits, '_' and '-' (got {value!r})."
                f' Example: labels: {{{key}: "1"}}'
            )
        if key != key.lower() or not _LABEL_KEY.fullmatch(key):
            raise GcpError(
                f"labels.{key}: the key must have at most 63 lowercase letters, digits, '_' and '-', and begin with a letter."
                " Example: labels: {team: platform}"
            )
    if params["remote"] is not None and not _UPSTREAM.fullmatch(params["remote"]["upstream"] or ""):
        raise GcpError(
            f"remote.upstream: must be docker_hub or the URL of a registry (got '{params['remote']['upstream'] or ''}')."
            " Example: remote: {upstream: https://quay.io}"
        )
    if params["virtual"] is not None:
        _check_policies(params["virtual"]["policies"])


def _check_policies(policies: list[dict[str, t.Any]] | None) -> None:
    seen = set()
    for policy in policies or []:
        if not policy["id"] or policy["id"] in seen:
            raise GcpError(
                f"virtual.policies: each id must be unique and not empty (got '{policy['id'] or ''}'). Give each policy its own id."
                " Example: id: docker-hub"
            )
        seen.add(policy["id"])
        if not REPOSITORY.fullmatch(policy["repository"] or ""):
            raise GcpError(
                f"virtual.policies: repository must be the full name of a repository (got '{policy['repository'] or ''}')."
                " Example: repository: projects/my-project/locations/us-central1/repositories/my-images"
            )


def _wanted(params: dict[str, t.Any]) -> dict[str, t.Any]:
    wanted = {field: params[field] for field in ("description", "labels") if params[field] is not None}
    mode = params["mode"] or next((kind for kind in ("remote", "virtual") if params[kind] is not None), None)
    if mode:
        wanted["mode"] = _MODES[mode]
    if params["remote"] is not None:
        upstream = _normal_upstream(params["remote"]["upstream"])
        wanted["remoteRepositoryConfig"] = (
            {"dockerRepository": {"publicRepository": "DOCKER_HUB"}}
            if upstream == "docker_hub"
            else {"commonRepository": {"uri": upstream}}
        )
    if params["virtual"] is not None:
        policies = params["virtual"]["policies"]
        wanted["virtualRepositoryConfig"] = {"upstreamPolicies": policies} if policies else {}
    return wanted


def ensure(module: t.Any) -> dict[str, t.Any]:
    """Bring the repository to its state; return the result of the module. Raise GcpError."""
    params = module.params
    _check(params)
    name = f"projects/{params['project']}/locations/{params['location']}/repositories/{params['repository_id']}"
    repository = _Repository(GcpClient(module), API, name)
    return result("repository", repository.ensure(params["state"] == "present", _wanted(params), module.check_mode))


def main() -> None:
    policy = {
        "id": {"type": "str", "required": True},
        "repository": {"type": "str", "required": True},
        "priority": {"type": "int", "required": True},
    }
    policies = {"type": "list", "elements": "dict", "required": True, "options": policy}
    spec = {
        "location": {"type": "str", "required": True},
        "repository_id": {"type": "str", "required": True},
        "description": {"type": "str"},
        "labels": {"type": "dict"},
        "mode": {"type": "str", "choices": list(_MODES)},
        "remote": {"type": "dict", "options": {"upstream": {"type": "str", "required": True}}},
        "virtual": {"type": "dict", "options": {"policies": policies}},
    }
    run(gcp_module({**spec, **STATE}, mutually_exclusive=[("remote", "virtual")]), ensure)


if __name__ == "__main__":
    main()
