# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of a cache's users: from user names in the inventory to user names at the registry, and how to replace them.

Private to this collection. A user has up to three credentials: C(now) is the active one, in the pull secrets. C(next) will replace it, and
C(old) was replaced. All of them are in the htpasswd file, each with a different name, because the registry uses only the last of several
lines with the same name. The effect of a step depends only on the state in the cluster, so any later run can resume an interrupted one.
"""

from __future__ import annotations

import copy
import datetime
import json
import re
import secrets
import string
import typing as t

from .._kubernetes.client import Client
from .._kubernetes.errors import ClusterError
from .._kubernetes.owner import Owner
from .._kubernetes.secret import Secret
from . import htpasswd

# A credential has a name, a password, and optionally a hash. An old one also has `until` and `dropped`.
Credential = t.Dict[str, t.Any]
# By user name in the inventory: `now`, and during a rotation `next` or `old`.
State = t.Dict[str, t.Dict[str, Credential]]

# MaxSecretSize in Kubernetes.
MAX_BYTES = 1 << 20
_GENERATION = re.compile(r"(.+)\.g([1-9][0-9]*)", re.DOTALL)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LETTERS, _LENGTH = string.ascii_letters + string.digits, 43
# A colon, 60 characters of a bcrypt hash, and a line feed.
_BYTES_OF_HASH = 62
_ROTATE = "Run playbooks/rotate.yml to replace it without a failed pull"


class UsersError(ClusterError):
    """Something that cannot be done. The text is a message for the user, without a password."""


def _is_record(record: dict[str, Credential]) -> bool:
    """Return whether a record is valid. For a malformed one it may also raise LookupError, TypeError, ValueError or AttributeError."""
    for phase, one in record.items():
        if phase not in ("now", "next", "old") or not one["name"] or (phase == "next" and "password" not in one):
            return False
        if not all(isinstance(one.get(key, ""), str) for key in ("name", "password", "hash")):
            return False
        if "until" in one:
            _time(one["until"])
    return "now" in record


def read(text: str) -> State:
    """Return the state in a text. Raise UsersError if `write` did not write it."""
    try:
        state = json.loads(text) if text else {}
        if all(map(_is_record, state.values())):
            return state
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UsersError("the content of its key 'users' is invalid. Restore it, or delete the Secret and run site.yml")


def write(state: State) -> str:
    """Return the text of a state. The same state gives the same text."""
    return json.dumps(state, ensure_ascii=False, indent=1, sort_keys=True)


class Passwords(Secret):
    """The Secret with the credentials, as it was read. Raises ClusterError."""

    def __init__(self, client: Client, owner: Owner, **options: str) -> None:
        super().__init__(client, owner, "passwords", "users", **options)
        try:
            self.state = read(self.text)
        except UsersError as error:
            raise UsersError(f"{self.where}: {error}") from None

    def prover(self) -> Credential:
        """Return the active credential of the first user with a known password.

        :raises UsersError: if no password is known.
        """
        for _user, record in sorted(self.state.items()):
            if record["now"].get("password") is not None:
                return record["now"]
        raise UsersError(f"{self.where} contains no known password. Set the password of a user, and run site.yml")


def check(users: t.Sequence[htpasswd.User]) -> None:
    """Raise UsersError for users that a cache cannot have."""
    try:
        # A password that will be generated does not count as missing.
        htpasswd.check_users([user if user.password is not None or user.hash else user._replace(password="x") for user in users])
    except htpasswd.UserError as error:
        raise UsersError(f"users: {error}") from None
    if taken := [user.name for user in users if _GENERATION.fullmatch(user.name)]:
        raise UsersError(
            f"users: the name of user '{taken[0]}' must not end with .g and a number, which is reserved for rotations. Choose another one."
            " Example: users: [{name: team-a}]"
        )


def _generation(user: str, name: str) -> int | None:
    """Return the generation of a credential: 0 for the user's own name, 1 and more after rotations, None for another user's name."""
    found = _GENERATION.fullmatch(name)
    return 0 if name == user else int(found[2]) if found and found[1] == user else None


def _successor(user: str, name: str) -> str:
    return f"{user}.g{(_generation(user, name) or 0) + 1}"


def _only_hash(user: htpasswd.User) -> bool:
    return user.password is None and user.hash is not None


def make_password() -> str:
    """Return a password of 43 letters and digits, which have 256 random bits."""
    return "".join(secrets.choice(_LETTERS) for _letter in range(_LENGTH))


def _credential(name: str, user: htpasswd.User) -> Credential:
    """Return a credential with the inventory's password, or with a generated one."""
    password = user.password if user.password is not None else make_password()
    return {"name": name, "password": password, **({"hash": user.hash} if user.hash else {})}


def _recovered(user: htpasswd.User, hashes: dict[str, str]) -> dict[str, Credential] | None:
    """Return what the htpasswd file alone still contains of a user, with a password only if the inventory's password matches."""
    names = sorted((name for name in hashes if _generation(user.name, name) is not None), key=lambda n: _generation(user.name, n) or 0)
    if not names:
        return None
    record = {"now": {"name": names[-1], "hash": hashes[names[-1]]}}
    if user.password is not None and htpasswd.verifies(user.password, hashes[names[-1]]):
        record["now"] = _credential(names[-1], user)
    if len(names) > 1:
        record["old"] = {"name": names[-2], "hash": hashes[names[-2]]}
    return record


def ensure(state: State, users: t.Sequence[htpasswd.User], hashes: dict[str, str], now: datetime.datetime, rotating: bool) -> State:
    """Return the state with the users of the inventory. New users get a credential, and removed users lose theirs. Otherwise, only old
    credentials change, which are dropped when they have expired.

    :param hashes: hashes in the current htpasswd file, by name.
    :param rotating: whether a rotation may replace active passwords with those of the inventory.
    :raises UsersError: for changed passwords unless rotating, and for new users if rotating.
    """
    result: State = {}
    for user in users:
        if _only_hash(user):
            continue
        record = copy.deepcopy(state.get(user.name)) or _recovered(user, hashes)
        if record is None and rotating:
            raise UsersError(f"users: user '{user.name}' is not in the cache yet. Run playbooks/site.yml first to add new users")
        if record is None:
            record = {"now": _credential(user.name, user)}
        held = record["now"].get("password")
        if user.password is None and held is None:
            # The password was lost with its Secret, but pull secrets still contain it.
            record = {"now": _credential(_successor(user.name, record["now"]["name"]), user), "old": record["now"]}
        elif user.password is not None and user.password == held:
            # This also applies if the inventory has returned to the active password.
            record.pop("next", None)
            if user.hash:
                record["now"]["hash"] = user.hash
        elif user.password is not None and user.password != record.get("next", {}).get("password") and not rotating:
            raise UsersError(
                f"users: the password of user '{user.name}' is not the one in force, which pull secrets contain. {_ROTATE}, or set the"
                " previous password again"
            )
        if "old" in record and "until" in record["old"] and _time(record["old"]["until"]) <= now:
            record["old"]["dropped"] = True
        result[user.name] = record
    return result


def issue(state: State, users: t.Sequence[htpasswd.User], chosen: t.Collection[str]) -> State:
    """Return the state with a new credential in addition to the active one, for the chosen users, or for all users if none is chosen.
    A rotation that has already begun for a user continues.

    :raises UsersError: for users that cannot get a new credential.
    """
    result = copy.deepcopy(state)
    if unknown := sorted(set(chosen) - {user.name for user in users}):
        raise UsersError(
            f"rotate: user {', '.join(unknown)} does not exist. Choose from {', '.join(user.name for user in users)}."
            f" Example: rotate: [{users[0].name if users else 'team-a'}]"
        )
    unchanged = []
    for user in users:
        if chosen and user.name not in chosen:
            continue
        if _only_hash(user):
            if chosen:
                raise UsersError(
                    f"rotate: user '{user.name}' has only a hash. Set another hash, and run site.yml. To change it without a failed pull,"
                    " add a second user, move the clients to it, and remove the first one"
                )
            continue
        record = result[user.name]
        if "old" in record:
            continue
        if "next" in record:
            if user.password is not None and record["next"]["password"] != user.password:
                record["next"] = _credential(record["next"]["name"], user)
        elif user.password is not None and user.password == record["now"].get("password"):
            unchanged.append(user.name)
        else:
            record["next"] = _credential(_successor(user.name, record["now"]["name"]), user)
    if unchanged:
        raise UsersError(
            f"users: the password of user {', '.join(unchanged)} is already the one in force. Set a new password, remove it to have one"
            " generated, or name the users to rotate. Example: rotate: [team-a]"
        )
    return result


def activate(state: State) -> State:
    """Return the state in which the new credentials are active."""
    result = copy.deepcopy(state)
    for record in result.values():
        if "next" in record:
            record["old"], record["now"] = record["now"], record.pop("next")
    return result


def schedule(state: State, now: datetime.datetime, grace: int) -> State:
    """Return the state with the time at which each old credential expires. Without a grace period, it is now."""
    result = copy.deepcopy(state)
    for old in _old(result):
        if not grace or "until" not in old:
            old["until"] = (now + datetime.timedelta(seconds=grace)).strftime(_TIME)
    return result


def prune(state: State) -> State:
    """Return the state without the records of revoked credentials."""
    return {
        user: {phase: one for phase, one in record.items() if not one.get("dropped")} for user, record in copy.deepcopy(state).items()
    }


def due_in(state: State, now: datetime.datetime) -> int:
    """Return the seconds until the last old credential expires, as far as known."""
    times = [_time(old["until"]) for old in _old(state) if "until" in old and not old.get("dropped")]
    return max(0, int((max(times) - now).total_seconds()) + 1) if times else 0


def accounts(state: State, users: t.Sequence[htpasswd.User]) -> list[htpasswd.User]:
    """Return all users for the htpasswd file.

    :raises UsersError: if the file or the state does not fit into a Secret.
    """
    result = []
    for user in users:
        if _only_hash(user):
            result.append(user)
        for one in state.get(user.name, {}).values():
            if not one.get("dropped"):
                result.append(htpasswd.User(one["name"], one.get("password"), True, one.get("hash")))
    size = max(sum(len(one.name.encode()) + _BYTES_OF_HASH for one in result), len(write(state).encode()))
    if size > MAX_BYTES:
        raise UsersError(
            f"users: the {len(users)} users need {size} bytes, but a Secret holds at most 1 MiB. Let several clients share a user."
            " Example: users: [{name: nodes}]"
        )
    return result


def moved(state: State, added: t.Collection[str]) -> tuple[list[Credential], list[Credential]]:
    """Return the credentials to test at the replicas: those that replicas must accept now, and those that they must refuse.

    :param added: registry user names that are new in the htpasswd file, or have a new hash there.
    """
    accepted, refused = [], []
    for record in state.values():
        for phase, one in record.items():
            if one.get("password") is None:
                continue
            if one.get("dropped"):
                refused.append(one)
            elif one["name"] in added or phase == "next" or (phase == "now" and "old" in record):
                accepted.append(one)
    return accepted, refused


def describe(state: State) -> list[str]:
    """Return a line for each user, with names and times only."""
    lines = []
    for user, record in sorted(state.items()):
        words = [f"{user}: {record['now']['name']}"]
        if "next" in record:
            words.append(f"{record['next']['name']} is next")
        if "old" in record and not record["old"].get("dropped"):
            words.append(f"{record['old']['name']} until {record['old'].get('until', 'all pull secrets are replaced')}")
        lines.append(", ".join(words))
    return lines


def rotating(state: State) -> list[str]:
    """Return the users whose credential is being replaced."""
    return sorted(user for user, record in state.items() if len(record) > 1)


def revoked(state: State) -> bool:
    """Return whether there are records for `prune` to remove."""
    return any(old.get("dropped") for old in _old(state))


def _old(state: State) -> list[Credential]:
    return [record["old"] for record in state.values() if "old" in record]


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.timezone.utc)
