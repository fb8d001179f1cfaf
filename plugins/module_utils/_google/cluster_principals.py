# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which principals a cluster's caches have at Google, and which of them are former.

A principal is a provider's id and a subject that the provider admits. Private to this collection.
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
    """A provider's id and a token's claim C(sub), which together make C(google.subject)."""

    provider: str
    subject: str

    def member(self, pool: str) -> str:
        """As IAM writes it; pool: the full name, with the project's number."""
        return f"principal://iam.googleapis.com/{pool}/subject/{self.provider}:{self.subject}"


def provider_id(provider: _Object) -> str:
    """The last part of a provider's name."""
    return provider["name"].rpartition("/")[2]


def service_account(subject: str) -> tuple[str, str] | None:
    """Namespace and name of the Kubernetes service account that a subject stands for."""
    found = _SERVICE_ACCOUNT.fullmatch(subject)
    return (found[1], found[2]) if found else None


def account_name(email: str) -> str:
    """The full name of a Google service account; the domain of a project that has one comes last in the address."""
    project, _dot, domain = email.partition("@")[2].removesuffix(".iam.gserviceaccount.com").partition(".")
    return f"projects/{domain}:{project}/serviceAccounts/{email}" if domain else f"projects/{project}/serviceAccounts/{email}"


def of_cluster(providers: t.Iterable[_Object], cluster: str | None, own: str) -> dict[str, list[str]]:
    """The subjects of each live provider of a cluster, by the provider's id.

    :param cluster: the UID, or None if the cluster does not answer: then only the own provider is known.
    :param own: the id of the own provider.
    """
    found = {}
    for provider in providers:
        description, identifier = provider.get("description", ""), provider_id(provider)
        known = description == f"{CLUSTER_DESCRIPTION}{cluster}" if cluster else (
            identifier == own and description.startswith(CLUSTER_DESCRIPTION)
        )
        # A condition that is no list of subjects was written by somebody else.
        subjects = subjects_of(provider.get("attributeCondition"))
        if known and subjects is not None and provider.get("state") == "ACTIVE":
            found[identifier] = subjects
    return found


def former(
    admitted: dict[str, list[str]], own: Principal, keep_own: bool, exists: t.Callable[[str], bool]
) -> list[Principal]:
    """The principals that no cache uses any more.

    :param admitted: subjects by provider, all of one cluster.
    :param exists: whether the cache of a subject is in the cluster; asked only about others than the own.
    """
    everyone = [Principal(provider, subject) for provider, subjects in sorted(admitted.items()) for subject in subjects]

    def current(principal: Principal) -> bool:
        if principal.subject == own.subject:
            return keep_own and principal == own
        return exists(principal.subject)

    return [principal for principal in everyone if not current(principal)]
