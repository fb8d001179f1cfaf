# SPDX-License-Identifier: GPL-3.0-or-later
"""Predefined roles, with the permissions that the emulator checks (cloud.google.com/iam/docs/roles-permissions)."""

from __future__ import annotations

from collections.abc import Iterable

DOWNLOAD = "artifactregistry.repositories.downloadArtifacts"
UPLOAD = "artifactregistry.repositories.uploadArtifacts"
DELETE = "artifactregistry.repositories.deleteArtifacts"
# The only permission that owners do not have.
GET_ACCESS_TOKEN = "iam.serviceAccounts.getAccessToken"


def _verbs(resource: str, verbs: str) -> frozenset[str]:
    return frozenset(f"{resource}.{verb}" for verb in verbs.split())


_PROJECT = _verbs("resourcemanager.projects", "get")
_PROJECT_POLICY = _verbs("resourcemanager.projects", "getIamPolicy setIamPolicy")
_READER = _verbs("artifactregistry.repositories", "get list") | {DOWNLOAD}
_WRITER = _READER | {UPLOAD}
_REPO_ADMIN = _WRITER | {DELETE}
_REPOSITORIES = _REPO_ADMIN | _verbs("artifactregistry.repositories", "create update delete")
_REPOSITORY_POLICY = _verbs("artifactregistry.repositories", "getIamPolicy setIamPolicy")
_POOLS_READ = _verbs("iam.workloadIdentityPools", "get list") | _verbs("iam.workloadIdentityPoolProviders", "get list")
_POOLS = _POOLS_READ.union(
    *(
        _verbs(f"iam.{kind}", "create update delete undelete")
        for kind in ("workloadIdentityPools", "workloadIdentityPoolProviders")
    )
)
_ACCOUNTS_READ = _verbs("iam.serviceAccounts", "get list")
_ACCOUNTS = _ACCOUNTS_READ | _verbs("iam.serviceAccounts", "create update delete undelete enable disable")
_ACCOUNT_POLICY = _verbs("iam.serviceAccounts", "getIamPolicy setIamPolicy")
_KEYS = _verbs("iam.serviceAccountKeys", "create delete")
_SERVICES_READ = _verbs("serviceusage.services", "get list")
_SERVICES = _SERVICES_READ | _verbs("serviceusage.services", "enable disable")
_VIEWER = _PROJECT | _READER | _POOLS_READ | _ACCOUNTS_READ | _SERVICES_READ
_EDITOR = _VIEWER | _REPOSITORIES | _ACCOUNTS | _KEYS | _SERVICES

ROLES: dict[str, frozenset[str]] = {
    "roles/artifactregistry.reader": _READER,
    "roles/artifactregistry.writer": _WRITER,
    "roles/artifactregistry.repoAdmin": _REPO_ADMIN,
    "roles/artifactregistry.admin": _REPOSITORIES | _REPOSITORY_POLICY,
    "roles/iam.workloadIdentityPoolViewer": _POOLS_READ | _PROJECT,
    "roles/iam.workloadIdentityPoolAdmin": _POOLS | _PROJECT,
    "roles/iam.serviceAccountAdmin": _ACCOUNTS | _ACCOUNT_POLICY | _PROJECT,
    "roles/iam.serviceAccountKeyAdmin": _KEYS | _ACCOUNTS_READ | _PROJECT,
    "roles/iam.workloadIdentityUser": _ACCOUNTS_READ | {GET_ACCESS_TOKEN},
    "roles/iam.serviceAccountTokenCreator": _ACCOUNTS_READ | {GET_ACCESS_TOKEN},
    "roles/serviceusage.serviceUsageConsumer": _SERVICES_READ,
    "roles/serviceusage.serviceUsageAdmin": _SERVICES,
    "roles/resourcemanager.projectIamAdmin": _PROJECT | _PROJECT_POLICY,
    "roles/viewer": _VIEWER,
    "roles/editor": _EDITOR,
    "roles/owner": _EDITOR | _POOLS | _REPOSITORY_POLICY | _ACCOUNT_POLICY | _PROJECT_POLICY,
}


def supported(role: str, kinds: Iterable[str]) -> bool:
    """Returns whether a role is known and has permissions for one of these kinds of resource, such as iam.serviceAccounts."""
    return any(permission.rpartition(".")[0] in kinds for permission in ROLES.get(role, ()))


def all_kinds() -> frozenset[str]:
    """Returns all kinds of resource, which a project's policy applies to."""
    return frozenset(permission.rpartition(".")[0] for permissions in ROLES.values() for permission in permissions)
