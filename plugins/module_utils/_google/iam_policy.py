# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One member of one role in the IAM policy of a resource; every other binding stays as it is.

Private to this collection. Source: https://cloud.google.com/iam/docs/policies, and the discovery documents of the APIs.
"""

from __future__ import annotations

import copy
import re
import typing as t
from dataclasses import dataclass

from .artifact_registry import REPOSITORY
from .client import GcpClient, GcpError, stripped

# The only version that holds conditions; asked for, so that none is hidden.
_VERSION = 3
# IAM learns of a new pool or account within seconds.
_NOT_YET_KNOWN = re.compile(r"(?i)identity pool does not exist|service account \S+ does not exist")


# Members whose name is an address or a domain, deleted ones too.
_ADDRESS = re.compile(r"(deleted:)?(user|serviceAccount|group|domain):")


@dataclass(frozen=True)
class Kind:
    """How one kind of resource shows its policy.

    read: the verb of getIamPolicy. in_body: whether its options are in a body; else they are in the query.
    fix: what to do where there is no such resource.
    """

    form: re.Pattern[str]
    api: str
    read: str
    in_body: bool
    fix: str


_KINDS = (
    Kind(
        REPOSITORY,
        "https://artifactregistry.googleapis.com/v1",
        "GET",
        False,
        "Make it with module gcp_artifactregistry_repository",
    ),
    Kind(
        re.compile(r"projects/[\w.:-]+/serviceAccounts/([\w.-]+@[\w.-]+|\d+)", re.ASCII),
        "https://iam.googleapis.com/v1",
        "POST",
        False,
        "Make it with module gcp_iam_service_account",
    ),
    Kind(
        re.compile(r"projects/[\w.:-]+", re.ASCII),
        "https://cloudresourcemanager.googleapis.com/v1",
        "POST",
        True,
        "Check the project's id",
    ),
)


def kind_of(resource: str) -> Kind | None:
    """The kind of a resource by its full name, or None if it is none of those supported."""
    return next((kind for kind in _KINDS if kind.form.fullmatch(resource)), None)


@dataclass(frozen=True)
class Grant:
    """A member of a role, under a condition or none."""

    role: str
    member: str
    condition: dict[str, str] | None

    def _bindings(self, policy: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        """The policy's bindings of that role and condition: Google makes one of several, but need not show one."""
        condition = self.condition or {}
        return [
            binding
            for binding in policy.get("bindings", [])
            if binding["role"] == self.role and stripped(binding.get("condition") or {}) == condition
        ]

    def binding(self, policy: dict[str, t.Any]) -> dict[str, t.Any]:
        """Those bindings as one; empty if there is none."""
        found = self._bindings(policy)
        if len(found) < 2:
            return found[0] if found else {}
        return {**found[0], "members": sorted({member for binding in found for member in binding.get("members", [])})}

    def held(self, policy: dict[str, t.Any]) -> bool:
        """Whether the policy has it."""
        return _normal(self.member) in map(_normal, self.binding(policy).get("members", []))

    def changed(self, policy: dict[str, t.Any], present: bool) -> dict[str, t.Any]:
        """A policy in which it alone differs."""
        policy = copy.deepcopy(policy)
        bindings = policy.setdefault("bindings", [])
        found = self._bindings(policy)
        if present and not found:
            condition = {"condition": self.condition} if self.condition else {}
            bindings.append({"role": self.role, "members": [self.member], **condition})
        elif present:
            found[0].setdefault("members", []).append(self.member)
        else:
            for binding in found:
                binding["members"] = [other for other in binding.get("members", []) if _normal(other) != _normal(self.member)]
            emptied = [id(binding) for binding in found if not binding["members"]]
            policy["bindings"] = bindings = [binding for binding in bindings if id(binding) not in emptied]
        if any("condition" in binding for binding in bindings):
            policy["version"] = _VERSION
        return policy


class Policy:
    """The policy of a resource.

    :param warn: called with what check mode cannot know.
    """

    def __init__(self, client: GcpClient, resource: str, kind: Kind, warn: t.Callable[[str], t.Any]) -> None:
        self._client, self._resource, self._kind, self._warn = client, resource, kind, warn
        self._url, self._what = f"{kind.api}/{resource}", f"IAM policy of {resource}"
        # Whether a write had no clear answer: what is found afterwards may be its work.
        self._ambiguous = False

    def ensure(self, grant: Grant, present: bool, check_mode: bool) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """Give the grant or take it away.

        :return: whether that is a change, the binding before, the binding after.
        """
        return self._client.budget.retry(
            lambda: self._outlast_conflicts(grant, present, check_mode),
            lambda error: present and bool(_NOT_YET_KNOWN.search(error.words)),
        )

    def members(self, role: str) -> list[str]:
        """The members of a role without condition; none where there is no such resource."""
        return list(Grant(role, "", None).binding(self._read() or {}).get("members", []))

    def _outlast_conflicts(
        self, grant: Grant, present: bool, check_mode: bool
    ) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """The whole read-modify-write, again while somebody else changes the policy in between (its etag tells)."""
        tried = 0
        while True:
            try:
                return self._ensure(grant, present, check_mode)
            except GcpError as error:
                if error.status != 409 or not self._client.budget.back_off(tried):
                    raise
                tried += 1

    def _ensure(self, grant: Grant, present: bool, check_mode: bool) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        policy = self._read()
        if policy is None:
            if not present:
                return False, {}, {}
            missing = f"resources: '{self._resource}' does not exist. {self._kind.fix}"
            if not check_mode:
                raise GcpError(missing)
            # An earlier task may be about to make it.
            self._warn(missing)
            policy = {}
        before = grant.binding(policy)
        if grant.held(policy) == present:
            return self._ambiguous, before, before
        wanted = grant.changed(policy, present)
        if not check_mode:
            wanted = self._write(wanted)
        return True, before, grant.binding(wanted)

    def _write(self, policy: dict[str, t.Any]) -> dict[str, t.Any]:
        try:
            return self._client.request("POST", f"{self._url}:setIamPolicy", self._what, body={"policy": policy})
        except GcpError as error:
            self._ambiguous = self._ambiguous or error.ambiguous
            raise

    def _read(self) -> dict[str, t.Any] | None:
        """The policy, or None where there is no such resource."""
        version = {"options": {"requestedPolicyVersion": _VERSION}}
        query = None if self._kind.in_body else {"options.requestedPolicyVersion": _VERSION}
        body = version if self._kind.in_body else None
        return self._client.get(f"{self._url}:getIamPolicy", self._what, query, method=self._kind.read, body=body)


def _normal(member: str) -> str:
    """IAM answers with e-mail addresses and domains in lower case; the case of all others counts."""
    address = _ADDRESS.match(member)
    return member[: address.end()] + member[address.end() :].lower() if address else member
