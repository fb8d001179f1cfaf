# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Finds the principals that a cluster's caches have at Google, and those that no cache uses any more.

A principal is the ID of a provider and a subject that the provider admits. Private to this collection.
"""

from __future__ import annotations

import re
import typing as t
from dataclasses import dataclass

from .workload_identity import CLUSTER_DESCRIPTION, subjects_of

_SERVICE_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
_Object = dict[str, t.Any]


@dataclass(frozen=True)
class Principal:
    """The ID of a provider and a token's claim C(sub). Together they are C(google.subject)."""

    provider: str
    subject: str

    def member(self, pool: str) -> str:
        """Return the principal in the format of IAM. pool: the pool's full name, with the project's number."""
        return f"principal://iam.googleapis.com/{pool}/subject/{self.provider}:{self.subject}"


def provider_id(provider: _Object) -> str:
    """Return the ID of a provider, the last part of its name."""
    return provider["name"].rpartition("/")[2]


def service_account(subject: str) -> tuple[str, str] | None:
    """Return the namespace and name of the Kubernetes service account that a subject names, or None."""
    found = _SERVICE_ACCOUNT.fullmatch(subject)
    return (found[1], found[2]) if found else None


def account_name(email: str) -> str:
    """Return the full name of a Google service account. In its email address, a project's domain comes last."""
    project, _dot, domain = email.partition("@")[2].removesuffix(".iam.gserviceaccount.com").partition(".")
    return f"projects/{domain}:{project}/serviceAccounts/{email}" if domain else f"projects/{project}/serviceAccounts/{email}"


def of_cluster(providers: t.Iterable[_Object], cluster: str | None, own: str) -> dict[str, list[str]]:
    """Return the subjects of each active provider of a cluster, by the provider's ID.

    :param cluster: UID of the cluster, or None if the cluster does not answer. Then only the cache's own provider is known.
    :param own: ID of the cache's own provider.
    """
    found = {}
    for provider in providers:
        description, identifier = provider.get("description", ""), provider_id(provider)
        known = description == f"{CLUSTER_DESCRIPTION}{cluster}" if cluster else (
            identifier == own and description.startswith(CLUSTER_DESCRIPTION)
        )
        # Somebody else wrote a condition that is not a list of subjects.
        subjects = subjects_of(provider.get("attributeCondition"))
        if known and subjects is not None and provider.get("state") == "ACTIVE":
            found[identifier] = subjects
    return found


def former(
    admitted: dict[str, list[str]], own: Principal, keep_own: bool, exists: t.Callable[[str], bool]
) -> list[Principal]:
    """Return the principals that no cache uses any more.

    :param admitted: subjects by provider, all of one cluster.
    :param exists: function that returns whether the cache of a subject is in the cluster. It is not called for the cache's own subject.
    """
    everyone = [Principal(provider, subject) for provider, subjects in sorted(admitted.items()) for subject in subjects]

    def current(principal: Principal) -> bool:
        if principal.subject == own.subject:
            return keep_own and principal == own
        return exists(principal.subject)

    return [principal for principal in everyone if not current(principal)]
