# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Grants in the IAM policy of a resource: one member of one role. All other bindings are kept.

Private to this collection. Source: https://cloud.google.com/iam/docs/policies, and the discovery documents of the APIs.
"""

from __future__ import annotations

import copy
import re
import typing as t
from dataclasses import dataclass

from .artifact_registry import REPOSITORY
from .client import GcpClient, GcpError, stripped

# The only policy version with conditions. A lower version would hide them.
_VERSION = 3
# IAM needs a few seconds until it knows a new pool or account.
_NOT_YET_KNOWN = re.compile(r"(?i)identity pool does not exist|service account \S+ does not exist")


# Members whose name is an email address or a domain, including deleted ones.
_ADDRESS = re.compile(r"(deleted:)?(user|serviceAccount|group|domain):")


@dataclass(frozen=True)
class Kind:
    """How to read the policy of one kind of resource.

    read: HTTP method of getIamPolicy. in_body: whether its options are in the body; otherwise they are in the query.
    fix: what to do if the resource does not exist, with an example.
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
        "Create it with module gcp_artifactregistry_repository. Example: repository_id: my-repository",
    ),
    Kind(
        re.compile(r"projects/[\w.:-]+/serviceAccounts/([\w.-]+@[\w.-]+|\d+)", re.ASCII),
        "https://iam.googleapis.com/v1",
        "POST",
        False,
        "Create it with module gcp_iam_service_account. Example: account_id: image-reader",
    ),
    Kind(
        re.compile(r"projects/[\w.:-]+", re.ASCII),
        "https://cloudresourcemanager.googleapis.com/v1",
        "POST",
        True,
        "Check the project's ID. Example: projects/my-project",
    ),
)


def kind_of(resource: str) -> Kind | None:
    """Return the kind of a resource with this full name, or None if it is not supported."""
    return next((kind for kind in _KINDS if kind.form.fullmatch(resource)), None)


@dataclass(frozen=True)
class Grant:
    """A member of a role, with or without a condition."""

    role: str
    member: str
    condition: dict[str, str] | None

    def _bindings(self, policy: dict[str, t.Any]) -> list[dict[str, t.Any]]:
        """Return the bindings with this role and condition. Google merges several into one, but may return several."""
        condition = self.condition or {}
        return [
            binding
            for binding in policy.get("bindings", [])
            if binding["role"] == self.role and stripped(binding.get("condition") or {}) == condition
        ]

    def binding(self, policy: dict[str, t.Any]) -> dict[str, t.Any]:
        """Return these bindings as one, or an empty one."""
        found = self._bindings(policy)
        if len(found) < 2:
            return found[0] if found else {}
        return {**found[0], "members": sorted({member for binding in found for member in binding.get("members", [])})}

    def held(self, policy: dict[str, t.Any]) -> bool:
        """Return whether the policy contains the grant."""
        return _normal(self.member) in map(_normal, self.binding(policy).get("members", []))

    def changed(self, policy: dict[str, t.Any], present: bool) -> dict[str, t.Any]:
        """Return a copy of the policy in which only this grant changes."""
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
    """The IAM policy of a resource.

    :param warn: function that is called with what check mode cannot know.
    """

    def __init__(self, client: GcpClient, resource: str, kind: Kind, warn: t.Callable[[str], t.Any]) -> None:
        self._client, self._resource, self._kind, self._warn = client, resource, kind, warn
        self._url, self._what = f"{kind.api}/{resource}", f"IAM policy of {resource}"
        # Whether a write had no clear answer. If so, the current policy may be its result.
        self._ambiguous = False

    def ensure(self, grant: Grant, present: bool, check_mode: bool) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """Add or remove the grant. Raise GcpError.

        :return: whether that is a change, the binding before, and the binding after.
        """
        return self._client.budget.retry(
            lambda: self._retry_conflicts(grant, present, check_mode),
            lambda error: present and bool(_NOT_YET_KNOWN.search(error.words)),
        )

    def members(self, role: str) -> list[str]:
        """Return the members of a role without a condition; none if the resource does not exist. Raise GcpError."""
        return list(Grant(role, "", None).binding(self._read() or {}).get("members", []))

    def _retry_conflicts(
        self, grant: Grant, present: bool, check_mode: bool
    ) -> tuple[bool, dict[str, t.Any], dict[str, t.Any]]:
        """Read, change and write the policy. Repeat all of it after a concurrent change, which the etag reveals. Raise GcpError."""
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
            # An earlier task may be about to create it.
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
        """Return the policy, or None if the resource does not exist. Raise GcpError."""
        version = {"options": {"requestedPolicyVersion": _VERSION}}
        query = None if self._kind.in_body else {"options.requestedPolicyVersion": _VERSION}
        body = version if self._kind.in_body else None
        return self._client.get(f"{self._url}:getIamPolicy", self._what, query, method=self._kind.read, body=body)


def _normal(member: str) -> str:
    """Return a member as IAM returns it: with email addresses and domains in lower case. For others, the case matters."""
    address = _ADDRESS.match(member)
    return member[: address.end()] + member[address.end() :].lower() if address else member
