# SPDX-License-Identifier: GPL-3.0-or-later
"""Principals, and their opaque access tokens."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

CLOUD_PLATFORM = "https://www.googleapis.com/auth/cloud-platform"
_EVERYONE = frozenset({"allUsers"})
_AUTHENTICATED = frozenset({"allUsers", "allAuthenticatedUsers"})
_FEDERATED = re.compile(
    r"principal(?:Set)?://iam\.googleapis\.com/(projects/[^/]+/locations/global/workloadIdentityPools/[^/]+)"
    r"/(?:subject/.+|group/.+|attribute\.[^/]+/.+|\*)"
)


@dataclass(frozen=True)
class Principal:
    """The caller that a token identifies.

    members: all IAM members that name this principal. pool: the full name of a federated principal's pool.
    account: the full name of a service account. scopes: the APIs that its token is valid for.
    """

    members: frozenset[str]
    pool: str | None = None
    account: str | None = None
    operator: bool = False
    scopes: frozenset[str] = frozenset({CLOUD_PLATFORM})

    @property
    def anonymous(self) -> bool:
        return self.members == _EVERYONE


ANONYMOUS = Principal(_EVERYONE)


def operator(member: str) -> Principal:
    return Principal(_AUTHENTICATED | {member}, operator=True)


def service_account(name: str, email: str, scopes: Iterable[str]) -> Principal:
    """name: the account's full name."""
    return Principal(_AUTHENTICATED | {f"serviceAccount:{email}"}, account=name, scopes=frozenset(scopes))


def federated(
    pool: str, subject: str, groups: Iterable[str], attributes: Mapping[str, str], scopes: Iterable[str]
) -> Principal:
    """Returns the identity of an exchanged token (cloud.google.com/iam/docs/principal-identifiers)."""
    parts = {f"group/{group}" for group in groups} | {f"attribute.{key}/{value}" for key, value in attributes.items()}
    # According to one report, a slash in a value is written %2F in the member †. Both match.
    parts |= {_escaped(part) for part in parts}
    subjects = {f"subject/{subject}", _escaped(f"subject/{subject}")}
    return Principal(
        _AUTHENTICATED
        | {f"principal://iam.googleapis.com/{pool}/{name}" for name in subjects}
        | {f"principalSet://iam.googleapis.com/{pool}/{part}" for part in parts | {"*"}},
        pool,
        scopes=frozenset(scopes),
    )


def _escaped(part: str) -> str:
    kind, _, value = part.partition("/")
    return f"{kind}/{value.replace('/', '%2F')}"


def member_pool(member: str) -> str | None:
    """Returns the pool of a principal:// or principalSet:// member, None if it is malformed."""
    match = _FEDERATED.fullmatch(member)
    return match[1] if match else None


@dataclass(frozen=True)
class _Grant:
    principal: Principal
    expires: float


class Tokens:
    """Access tokens and docker tokens: random values with an expiry."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._grants: dict[str, _Grant] = {}

    def add(self, value: str, principal: Principal, expires: float = float("inf")) -> None:
        self._grants[value] = _Grant(principal, expires)

    def issue(self, principal: Principal, expires: float = float("inf")) -> str:
        """Returns a new `ya29.` token that is valid until `expires` (seconds since the epoch)."""
        for value in [value for value, grant in self._grants.items() if grant.expires <= self._clock()]:
            del self._grants[value]
        value = f"ya29.{secrets.token_urlsafe(48)}"
        self.add(value, principal, expires)
        return value

    def derive(self, value: str) -> str:
        """Returns another token for the principal of `value`, with the same expiry."""
        grant = self._grants[value]
        return self.issue(grant.principal, grant.expires)

    def find(self, value: str) -> Principal | None:
        """Returns the principal of a token, None if it is unknown or expired."""
        grant = self._grants.get(value)
        return grant.principal if grant and grant.expires > self._clock() else None
