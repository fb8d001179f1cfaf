# SPDX-License-Identifier: GPL-3.0-or-later
"""IAM policies of repositories, service accounts and projects."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator

from . import cel, messages, roles
from .errors import GoogleError
from .faults import Conditions
from .principals import member_pool
from .store import Resource, Store

_MEMBER = re.compile(r"(user|serviceAccount|group|domain):.+|allUsers|allAuthenticatedUsers")
_DELETED = re.compile(r"deleted:((user|serviceAccount|group):.+\?uid=\d+|principal://.+)")
_CONDITION: messages.Fields = {"title": str, "expression": str, "description": str, "location": str}
_BINDING: messages.Fields = {"role": str, "members": [str], "condition": _CONDITION}
POLICY: messages.Fields = {"version": int, "etag": str, "bindings": [_BINDING]}
GET_POLICY: messages.Fields = {"options": {"requestedPolicyVersion": int}}
_Grant = tuple[str, str, str, str]


class Policies:
    """Policies by the full name of their resource."""

    def __init__(self, store: Store, conditions: Conditions, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._conditions, self._clock = store, conditions, clock
        self._granted_at: dict[_Grant, float] = {}

    def read(self, name: str, version: object) -> Resource:
        """Returns the policy in the version that a client requests (options.requestedPolicyVersion).

        Without version 3 a conditional binding is shown under a role that does not exist
        (cloud.google.com/iam/docs/policies#versions). Raises GoogleError for an unknown version.
        """
        if str(version) not in ("0", "1", "3"):
            raise GoogleError("INVALID_ARGUMENT", "The requested policy version must be 0, 1 or 3.")
        policy = self._current(name)
        if str(version) == "3" or "bindings" not in policy:
            return policy
        return {**policy, "version": 1, "bindings": [_without_condition(binding) for binding in policy["bindings"]]}

    def write(self, name: str, kinds: Iterable[str], policy: Resource) -> Resource:
        """Replace a policy. kinds: the resources that its roles may apply to. Raises GoogleError."""
        current = self._current(name)
        # Without an etag the policy is overwritten, as at Google.
        if policy.get("etag", current["etag"]) != current["etag"]:
            raise GoogleError(
                "ABORTED",
                "There were concurrent policy changes. Please retry the whole read-modify-write with exponential backoff. "
                f"The request's ETag '{policy['etag']}' did not match the current policy's ETag '{current['etag']}'.",
            )
        bindings = self._bindings(policy, frozenset(kinds))
        for grant in {*_grants(name, bindings)} - {*_grants(name, current.get("bindings", []))}:
            self._granted_at[grant] = self._clock()
        conditional = any("condition" in binding for binding in bindings)
        self._store.policies[name] = {
            **({"version": 3 if conditional else 1, "bindings": bindings} if bindings else {}),
            "etag": base64.b64encode(secrets.token_bytes(9)).decode(),
        }
        self._store.save()
        return self._store.policies[name]

    def in_effect(self, name: str) -> Iterator[Resource]:
        """Returns the bindings of a resource, with only those members whose grant is in effect."""
        due = self._clock() - self._conditions.grant_lag
        for binding in self._store.policies.get(name, {}).get("bindings", []):
            members = [
                member
                for member in binding["members"]
                if self._granted_at.get(_grant(name, binding, member), float("-inf")) <= due
            ]
            yield {**binding, "members": members}

    def rename(self, member: str, new: str) -> None:
        """Rename a member in all policies, when a service account is deleted or undeleted."""
        for policy in self._store.policies.values():
            for binding in policy.get("bindings", []):
                binding["members"] = sorted(new if old == member else old for old in binding["members"])

    def _current(self, name: str) -> Resource:
        # ACAB is the etag of a policy that was never set.
        return self._store.policies.get(name, {"etag": "ACAB"})

    def _bindings(self, policy: Resource, kinds: frozenset[str]) -> list[Resource]:
        """Returns the bindings after checks, one for each role and condition, like Google."""
        merged: dict[tuple[str, str], Resource] = {}
        for binding in policy.get("bindings", []):
            role, members = binding.get("role"), [_normal(member) for member in binding.get("members", [])]
            if not roles.supported(role, kinds):
                raise GoogleError("INVALID_ARGUMENT", f"Role {role} is not supported for this resource.")
            for member in members:
                self._check_member(member)
            condition = binding.get("condition")
            if condition is not None:
                _check_condition(condition, policy.get("version"))
            if members:
                entry = merged.setdefault(
                    (role, repr(condition)),
                    {"role": role, "members": [], **({"condition": condition} if condition else {})},
                )
                entry["members"] = sorted({*entry["members"], *members})
        return [merged[key] for key in sorted(merged)]

    def _check_member(self, member: str) -> None:
        if member.startswith(("principal://", "principalSet://")):
            pool = member_pool(member)
            # Members of a soft-deleted pool stay in policies, but grant nothing.
            if pool not in self._store.pools:
                raise GoogleError(
                    "INVALID_ARGUMENT",
                    f"Identity Pool does not exist ({pool or member}). Please check that you specified a valid "
                    "resource name as returned in the `name` attribute in the configuration API.",
                )
        elif not (_MEMBER.fullmatch(member) or _DELETED.fullmatch(member)):
            raise GoogleError(
                "INVALID_ARGUMENT",
                f"The member {member} is of an unknown type. Please set a valid type prefix for the member.",
            )
        elif member.startswith("serviceAccount:"):
            email = member.partition(":")[2]
            if self._store.account(email) is None:
                raise GoogleError("INVALID_ARGUMENT", f"Service account {email} does not exist.")


def _normal(member: str) -> str:
    """Returns a member with e-mail addresses and domains in lower case. Principals are case-sensitive."""
    kind, separator, name = member.partition(":")
    return kind + separator + name.lower() if kind in ("user", "serviceAccount", "group", "domain") else member


def _grant(name: str, binding: Resource, member: str) -> _Grant:
    return name, binding["role"], repr(binding.get("condition")), member


def _grants(name: str, bindings: list[Resource]) -> Iterator[_Grant]:
    for binding in bindings:
        for member in binding["members"]:
            yield _grant(name, binding, member)


def _without_condition(binding: Resource) -> Resource:
    if "condition" not in binding:
        return binding
    digest = hashlib.sha256(repr(binding["condition"]).encode()).hexdigest()[:20]
    return {"role": f"{binding['role']}_withcond_{digest}", "members": binding["members"]}


def _check_condition(condition: Resource, version: int | None) -> None:
    if version != 3:
        raise GoogleError("INVALID_ARGUMENT", "A policy with conditions must have version 3.")
    if not condition.get("title") or not condition.get("expression"):
        raise GoogleError("INVALID_ARGUMENT", "A condition needs a title and an expression.")
    try:
        cel.check(condition["expression"], {"request", "resource"})
    except cel.CelError as error:
        raise GoogleError("INVALID_ARGUMENT", f"Condition expression compilation failed: {error}") from None
