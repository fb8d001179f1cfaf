#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: gcp_iam_cluster_principals
short_description: Remove unused principals of a cluster at Google
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Finds the providers that role C(wif) created for a cluster, by their descriptions, and the subjects that they admit.
  - Removes principals that no cache uses any more. These are subjects whose Kubernetes service account does not exist or does not have the
    label C(app.kubernetes.io/managed-by=pullthrough.registry_cache). They also include O(subject) in any provider but O(provider_id).
  - First removes the grant of C(roles/artifactregistry.reader) on O(repositories) and of C(roles/iam.workloadIdentityUser) on
    O(service_account). Then removes the subject from the provider. Deletes a provider that has no subjects left.
  - Does not change providers of other clusters, or providers that this collection did not create.
  - Sends a single request if there is nothing to remove and O(service_account) is not set.
options:
  pool_id:
    description: ID of the pool.
    type: str
    required: true
  provider_id:
    description: ID of the provider that the cache uses.
    type: str
    required: true
  subject:
    description: Subject of the cache, as C(system:serviceaccount:NAMESPACE:NAME).
    type: str
    required: true
  cluster_uid:
    description:
      - UID of the cluster's namespace C(kube-system).
      - If not set, the module asks the cluster. If the cluster does not answer, O(state=absent) removes only the principal of this cache.
    type: str
  repositories:
    description: Full names of the repositories that the cache reads, as C(projects/PROJECT/locations/LOCATION/repositories/ID).
    type: list
    elements: str
    required: true
  service_account:
    description:
      - Email address of the Google service account that the cache impersonates.
      - The cache then reads the repositories as that account, so the module removes the grant of its own principal on O(repositories).
    type: str
  state:
    description:
      - V(present) keeps the principal of this cache.
      - V(absent) removes it too. It also deletes the pool, if role C(wif) created it and it has no providers left.
    type: str
    choices: [present, absent]
    default: present
extends_documentation_fragment:
  - pullthrough.registry_cache.gcp
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.attributes
requirements:
  - kubernetes
attributes:
  diff_mode:
    description: Returns the grants, the subjects by provider, and the pool, before and after.
    support: full
notes:
  - The caller needs the permission C(get) on service accounts in the namespaces of other caches. If it cannot read the service account
    of a cache, the module keeps the grants of that cache.
seealso:
  - module: pullthrough.registry_cache.gcp_iam_workload_identity_pool_provider
  - module: pullthrough.registry_cache.gcp_iam_member
"""

EXAMPLES = r"""
- name: Remove the principals of earlier names of the cache
  pullthrough.registry_cache.gcp_iam_cluster_principals:
    project: my-project
    pool_id: registry-cache
    provider_id: k8s-my-cluster
    subject: system:serviceaccount:registry-cache:registry-cache
    repositories:
      - projects/my-project/locations/us-central1/repositories/my-repository
"""

RETURN = r"""
removed:
  description: Grants that were removed.
  returned: success
  type: list
  elements: dict
  sample:
    - resource: projects/my-project/locations/us-central1/repositories/my-repository
      role: roles/artifactregistry.reader
      member: principal://iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/registry-cache/subject/old:sub
providers:
  description: Subjects of each provider of the cluster after the run, by the provider's ID.
  returned: success
  type: dict
  sample:
    k8s-my-cluster: [system:serviceaccount:registry-cache:registry-cache]
"""

import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import client as gcp
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.client import GcpClient, GcpError, check_project
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.cluster_principals import (
    Principal,
    account_name,
    former,
    of_cluster,
    provider_id,
    service_account,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.iam_policy import Grant, Policy, kind_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.runner import STATE, run
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google.workload_identity import (
    API,
    CLUSTER_DESCRIPTION,
    POOL_DESCRIPTION,
    WorkloadIdentityObject,
    check_id,
    check_subject,
    condition_of,
    pools_of,
    providers_of,
    subjects_of,
)
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client, connect
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import KUBECONFIG, ClusterError, NotFoundError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import MANAGED_BY, MANAGER
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import cluster_module

READER = "roles/artifactregistry.reader"
IMPERSONATOR = "roles/iam.workloadIdentityUser"
_PAGE = 100


class _Cluster:
    """The cluster. Requests are sent only when an answer is needed.

    :param required: whether it is an error if the cluster does not answer.
    """

    def __init__(self, module: t.Any, required: bool) -> None:
        self._module, self._required = module, required
        self._client: Client | None = None

    def uid(self) -> str | None:
        """Return the UID of kube-system, or None if the cluster does not answer and is not required. Raise GcpError."""
        if self._module.params["cluster_uid"]:
            return self._module.params["cluster_uid"]
        try:
            return self._connected().cluster_uid()
        except ClusterError as error:
            words = f"The cluster does not return its identity ({_words(error)})"
            if self._required:
                raise GcpError(f"{words}. {KUBECONFIG}") from error
            self._module.warn(f"{words}. Only the principal of this cache is removed at Google.")
            return None

    def exists(self, subject: str) -> bool:
        """Return whether the service account of a cache exists in the cluster; True if this is unknown."""
        names = service_account(subject)
        if names is None:
            return False
        try:
            # Not Client.get, which returns None both for an invalid answer and for a missing object.
            found = self._connected().request("get", f"/api/v1/namespaces/{names[0]}/serviceaccounts/{names[1]}")
            return (found["metadata"].get("labels") or {}).get(MANAGED_BY) == MANAGER
        except NotFoundError:
            return False
        except ClusterError as error:
            cause = _words(error)
        except (LookupError, TypeError, AttributeError):
            cause = "the answer is not an object"
        self._module.warn(
            f"The grants of {subject} are kept, because its service account cannot be read ({cause})."
            f" To have unused grants removed, allow get on serviceaccounts in namespace {names[0]}."
        )
        return True

    def _connected(self) -> Client:
        self._client = self._client or connect(self._module)
        return self._client


def _words(error: ClusterError) -> str:
    return " ".join(error.words.split())


class _Principals:
    """The principals of one pool, with their grants."""

    def __init__(self, module: t.Any, client: GcpClient) -> None:
        params = module.params
        self._module, self._client, self._check_mode = module, client, module.check_mode
        self._keep_own = params["state"] == "present"
        self._own = Principal(params["provider_id"], params["subject"])
        self._parent = pools_of(params["project"])
        self._pool_path = f"{self._parent}/{params['pool_id']}"
        self._provider_parent = providers_of(params["project"], params["pool_id"])
        self._cluster = _Cluster(module, required=self._keep_own)
        self.removed: list[dict[str, str]] = []

    def run(self) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
        """Remove unused principals; return grants, subjects by provider and the pool, before and after. Raise GcpError."""
        pool = None if self._keep_own else self._client.get(f"{API}/{self._pool_path}", self._pool_path)
        if not self._keep_own and pool is None:
            return {}, {}
        providers = [] if pool and pool["state"] == "DELETED" else self._providers()
        if self._keep_own and not providers:
            return {}, {}
        cluster = self._cluster.uid() if providers else None
        admitted = of_cluster(providers, cluster, self._own.provider)
        # If the cluster does not answer, nothing is known about its other caches.
        exists = self._cluster.exists if cluster else lambda _subject: True
        gone = former(admitted, self._own, self._keep_own, exists)
        if not self._keep_own and self._own not in gone and not self._is_foreign(providers, admitted):
            gone.append(self._own)  # its provider is gone, or was created only in part
        self._revoke((pool or providers[0])["name"].partition("/providers/")[0], gone)
        after = {
            identifier: [subject for subject in subjects if Principal(identifier, subject) not in gone]
            for identifier, subjects in admitted.items()
        }
        for identifier, subjects in admitted.items():
            if after[identifier] != subjects:
                self._shrink(identifier, {principal.subject for principal in gone if principal.provider == identifier})
        left = {identifier: subjects for identifier, subjects in after.items() if subjects}
        before_pool, after_pool = self._drop_pool(pool, providers, admitted.keys() - left.keys()) if pool else ({}, {})
        return (
            {"grants": self.removed, "providers": admitted, "pool": before_pool},
            {"grants": [], "providers": left, "pool": after_pool},
        )

    def _providers(self) -> list[dict[str, t.Any]]:
        parent = self._provider_parent
        return self._client.list_all(f"{API}/{parent}", "workloadIdentityPoolProviders", parent, {"pageSize": _PAGE})

    def _is_foreign(self, providers: list[dict[str, t.Any]], admitted: dict[str, list[str]]) -> bool:
        """Return whether the provider with this ID belongs to somebody else, who then has the same principal. If so, warn."""
        found = next((item for item in providers if provider_id(item) == self._own.provider), None)
        if found is None or self._own.provider in admitted:
            return False
        self._module.warn(
            f"provider_id: {found['name']} and its grants are kept, because the provider is not of this cluster, or its condition was"
            f" changed by hand. Expected the description '{CLUSTER_DESCRIPTION}UID' and a list of subjects as the condition (got"
            f" '{found.get('description', '')}' and '{found.get('attributeCondition', '')}')."
        )
        return True

    def _revoke(self, pool: str, gone: list[Principal]) -> None:
        params = self._module.params
        members = {principal.member(pool) for principal in gone}
        readers, account = set(members), params["service_account"]
        if account:
            # The account reads the repositories now. A grant of the principal itself is from an earlier configuration.
            readers.add(self._own.member(pool))
        for resource in params["repositories"] if readers else []:
            self._remove(resource, READER, readers)
        if account and members:
            self._remove(account_name(account), IMPERSONATOR, members)

    def _remove(self, resource: str, role: str, members: set[str]) -> None:
        kind = kind_of(resource)
        if kind is None:
            raise GcpError(
                f"repositories: '{resource}' must be the full name of a repository."
                " Example: projects/my-project/locations/us-central1/repositories/my-repository"
            )
        policy = Policy(self._client, resource, kind, self._module.warn)
        for member in policy.members(role):
            if member.removeprefix("deleted:") in members:
                changed, _before, _after = policy.ensure(Grant(role, member, None), False, self._check_mode)
                if changed:
                    self.removed.append({"resource": resource, "role": role, "member": member})

    def _object(self, parent: str, identifier: str) -> WorkloadIdentityObject:
        return WorkloadIdentityObject(self._client, parent, "", identifier)

    def _shrink(self, identifier: str, subjects: set[str]) -> None:
        """Remove subjects from the current state of a provider, and delete the provider if none is left. Raise GcpError."""
        if not self._check_mode:
            # HTTP 409 is a concurrent change.
            self._client.budget.retry(lambda: self._shrink_once(identifier, subjects), lambda error: error.status == 409)

    def _shrink_once(self, identifier: str, subjects: set[str]) -> None:
        provider = self._object(self._provider_parent, identifier)
        current = provider.read() or {"state": "DELETED"}
        left = set(subjects_of(current.get("attributeCondition")) or ()) - subjects
        if provider.deleted(current):
            return
        if left:
            provider.update({"attributeCondition": condition_of(left)})
        else:
            provider.ensure(False, {}, False)

    def _drop_pool(
        self, pool: dict[str, t.Any], providers: list[dict[str, t.Any]], deleted: t.Collection[str]
    ) -> tuple[dict[str, t.Any], dict[str, t.Any]]:
        """Delete the pool if role wif created it and it is empty; return the pool before and after. Raise GcpError."""
        if pool["state"] == "DELETED" or pool.get("description") != POOL_DESCRIPTION:
            return pool, pool
        # Another host may have created its provider since.
        left = providers if self._check_mode else self._providers()
        if any(provider_id(provider) not in deleted for provider in left):
            return pool, pool
        self._object(self._parent, self._module.params["pool_id"]).ensure(False, {}, self._check_mode)
        return pool, {}


def prune(module: t.Any) -> dict[str, t.Any]:
    """Remove unused principals; return the result of the module. Raise GcpError."""
    params = module.params
    check_project(params["project"])
    check_id("pool_id", params["pool_id"])
    check_id("provider_id", params["provider_id"])
    check_subject(params["subject"])
    principals = _Principals(module, GcpClient(module))
    before, after = principals.run()
    return {
        "changed": before != after,
        "removed": principals.removed,
        "providers": after.get("providers", {}),
        "diff": {"before": before, "after": after},
    }


def main() -> None:
    module = cluster_module(
        {
            **gcp.argument_spec(),
            "pool_id": {"type": "str", "required": True},
            "provider_id": {"type": "str", "required": True},
            "subject": {"type": "str", "required": True},
            "cluster_uid": {"type": "str"},
            "repositories": {"type": "list", "elements": "str", "required": True},
            "service_account": {"type": "str"},
            **STATE,
        }
    )
    gcp.require_libraries(module)
    run(module, prune)


if __name__ == "__main__":
    main()
