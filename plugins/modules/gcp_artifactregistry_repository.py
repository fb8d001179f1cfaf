#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_artifactregistry_repository
short_description: Manage a repository for images in Google Artifact Registry
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Creates, updates and deletes a repository of format C(DOCKER).
  - Its mode, its format and a remote repository's upstream cannot change at Google, so that another one is refused.
    Another O(location) is another repository.
  - Cleanup policies, encryption keys and credentials for upstreams stay as they are.
options:
  location:
    description: The region or multi-region, such as C(us-central1) or C(europe).
    type: str
    required: true
  repository_id:
    description:
      - The repository's id, at most 63 of C(a-z), C(0-9) and C(-), beginning with a letter.
      - Or V(gcr.io) or V(us.gcr.io) in O(location=us), V(eu.gcr.io) in O(location=europe), V(asia.gcr.io) in O(location=asia), which
        serve what was pushed to Container Registry's host of that name.
    type: str
    required: true
  description:
    description: A text. Left as it is if unset.
    type: str
  labels:
    description:
      - Labels, compared and written whole, so that a key left out is removed.
      - Left as they are if unset.
    type: dict
  mode:
    description:
      - V(standard) holds what is pushed, V(remote) caches an upstream, V(virtual) is a common front of other repositories.
      - A new repository is V(standard) if neither this nor O(remote) or O(virtual) is set.
    type: str
    choices: [standard, remote, virtual]
  remote:
    description: Of a V(remote) repository; required to make one.
    type: dict
    suboptions:
      upstream:
        description:
          - V(docker_hub), or the address of a registry, such as C(https://quay.io).
          - It may be another repository of Artifact Registry, by its address or full name.
        type: str
        required: true
  virtual:
    description: Of a V(virtual) repository.
    type: dict
    suboptions:
      policies:
        description: The repositories behind it, compared and written whole.
        type: list
        elements: dict
        required: true
        suboptions:
          id:
            description: A name for this entry, unique among them.
            type: str
            required: true
          repository:
            description: The repository's full name, C(projects/PROJECT/locations/LOCATION/repositories/REPOSITORY).
            type: str
            required: true
          priority:
            description: Repositories of a higher one are asked first.
            type: int
            required: true
  state:
    description: Whether it is there. With V(absent) its images are deleted, too.
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
- name: A repository for our images
  pullthrough.registry_cache.gcp_artifactregistry_repository:
    project: my-project
    location: us-central1
    repository_id: my-images
    labels:
      team: platform

- name: A cache of Docker Hub
  pullthrough.registry_cache.gcp_artifactregistry_repository:
    project: my-project
    location: us-central1
    repository_id: docker-hub
    remote:
      upstream: docker_hub

- name: One name for both, our own images first
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
    - The repository as the API returns it, in check mode what it would be.
    - Images are pulled from its C(registryUri).
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
# Another repository of Artifact Registry as an upstream, by its address.
_ADDRESS = re.compile(r"(?:https://)?([a-z0-9-]+)-docker\.pkg\.dev/((?:[a-z0-9.-]+\.[a-z]+/)?[^/]+)/([^/]+)")
_LABEL_KEY = re.compile(r"[^\W\dA-Z][\w-]{0,62}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_MAX_LABELS = 64


def _upstream(repository: dict[str, t.Any]) -> str:
    """What a remote repository caches, as the option has it; the API has several places for it."""
    config = repository.get("remoteRepositoryConfig") or {}
    docker = config.get("dockerRepository", {})
    if docker.get("publicRepository") == "DOCKER_HUB":
        return "docker_hub"
    uri = docker.get("customRepository", config.get("commonRepository", {})).get("uri", "")
    return _normal_upstream(uri)


def _normal_upstream(upstream: str) -> str:
    return "docker_hub" if upstream.rstrip("/") == _DOCKER_HUB else upstream.rstrip("/")


def _same_upstream(one: str, other: str) -> bool:
    """Whether two upstreams are the same: a repository of Artifact Registry has an address and a full name."""
    names = [_full_name(upstream) for upstream in (one, other)]
    projects = [name.split("/")[1] for name in names if name.startswith("projects/")]
    if len(projects) == 2 and projects[0].isdigit() != projects[1].isdigit():
        # Google may answer with the project's number: the rest tells.
        names = [name.split("/", 2)[2] for name in names]
    return names[0] == names[1]


def _full_name(upstream: str) -> str:
    """The full name of a repository of Artifact Registry; any other upstream as it is."""
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
        """Refuse what is fixed for a repository's life."""
        if not current:
            if wanted.get("mode") == _MODES["remote"] and "remoteRepositoryConfig" not in wanted:
                raise GcpError(f"{self.name}: remote.upstream is required to make it. Example: remote: {{upstream: docker_hub}}")
            return
        other = "Choose another repository_id, or delete this repository, with its images, by state: absent"
        if current.get("format", "DOCKER") != "DOCKER":
            raise GcpError(f"repository_id: {self.name} is of format {current['format']}, not DOCKER. {other}")
        mode = current.get("mode", _MODES["standard"])
        if "mode" in wanted and mode != wanted["mode"]:
            is_, asked = ({full: short for short, full in _MODES.items()}.get(one, one) for one in (mode, wanted["mode"]))
            raise GcpError(f"mode of {self.name} is {is_}, which cannot become {asked}. {other}")
        if "remoteRepositoryConfig" in wanted and not _same_upstream(_upstream(current), _upstream(wanted)):
            raise GcpError(
                f"remote.upstream of {self.name} is {_upstream(current)}, which cannot become {_upstream(wanted)}. {other}"
            )

    def create(self, wanted: dict[str, t.Any]) -> None:
        parent, repository_id = self.url.rsplit("/", 1)
        self.act("POST", parent, body={**self.added, **wanted}, params={"repositoryId": repository_id})

    def update(self, fields: dict[str, t.Any]) -> dict[str, t.Any]:
        # Here alone an update is no long-running operation.
        return self.client.request("PATCH", self.url, self.name, body=fields, params={"updateMask": ",".join(fields)})


def _check(params: dict[str, t.Any]) -> None:
    check_project(params["project"])
    check_location(params["location"])
    check_repository_id(params["repository_id"], params["location"])
    for kind in ("remote", "virtual"):
        if params[kind] is not None and params["mode"] not in (None, kind):
            raise GcpError(f"{kind} is for mode {kind}, and mode is {params['mode']}. Leave out one of both")
    labels = params["labels"] or {}
    if len(labels) > _MAX_LABELS:
        raise GcpError(f"labels has {len(labels)} keys, and Google takes {_MAX_LABELS}. Leave some out")
    for key, value in labels.items():
        # YAML makes numbers and booleans of what looks so.
        if not isinstance(value, str) or value != value.lower() or not _LABEL_VALUE.fullmatch(value):
            raise GcpError(
                f"labels.{key} is {value!r}: a value is a text of at most 63 lower-case letters, digits, '_' and '-'."
                f' Example: labels: {{{key}: "1"}}'
            )
        if key != key.lower() or not _LABEL_KEY.fullmatch(key):
            raise GcpError(
                f"labels.{key}: a key is at most 63 lower-case letters, digits, '_' and '-', the first a letter."
                " Example: labels: {team: platform}"
            )
    if params["remote"] is not None and not _UPSTREAM.fullmatch(params["remote"]["upstream"] or ""):
        raise GcpError(
            f"remote.upstream '{params['remote']['upstream'] or ''}' is neither docker_hub nor the address of a registry."
            " Example: remote: {upstream: https://quay.io}"
        )
    if params["virtual"] is not None:
        _check_policies(params["virtual"]["policies"])


def _check_policies(policies: list[dict[str, t.Any]] | None) -> None:
    seen = set()
    for policy in policies or []:
        if not policy["id"] or policy["id"] in seen:
            raise GcpError(
                f"virtual.policies: id '{policy['id'] or ''}' is empty or there twice. Give each entry an id of its own"
            )
        seen.add(policy["id"])
        if not REPOSITORY.fullmatch(policy["repository"] or ""):
            raise GcpError(
                f"virtual.policies: repository '{policy['repository'] or ''}' is not the full name of a repository."
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
    """The result. Raises GcpError."""
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
