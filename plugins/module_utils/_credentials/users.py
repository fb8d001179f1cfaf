# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Credentials of a cache's users, from the inventory's names to the names on the wire, and how one takes the place of another.

Private to this collection. A user of the inventory has up to three credentials: C(now) is in the pull secrets, C(next) is
to come there, C(old) was there. All of them are in the htpasswd file, each under a name of its own, since of two lines with
the same name the registry takes the last. What a step does to them depends on nothing but what the cluster holds, so a run
that was cut off is gone on with by any later one.
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

# A credential: name, password, and a ready-made hash where there is one; of an old one also `until` and `dropped`.
Credential = t.Dict[str, t.Any]
# By the inventory's name: `now`, and where it is being replaced `next` or `old`.
State = t.Dict[str, t.Dict[str, Credential]]

# MaxSecretSize of Kubernetes.
MAX_BYTES = 1 << 20
_GENERATION = re.compile(r"(.+)\.g([1-9][0-9]*)", re.DOTALL)
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_LETTERS, _LENGTH = string.ascii_letters + string.digits, 43
# A colon, 60 characters of bcrypt, and a line feed.
_BYTES_OF_HASH = 62
_ROTATE = "playbooks/rotate.yml brings it without a failed pull"


class UsersError(ClusterError):
    """What cannot be done; the message is a sentence for the user, without a password."""


def _is_record(record: dict[str, Credential]) -> bool:
    """Whether it is one of a state; what is not may also raise LookupError, TypeError, ValueError or AttributeError."""
    for phase, one in record.items():
        if phase not in ("now", "next", "old") or not one["name"] or (phase == "next" and "password" not in one):
            return False
        if not all(isinstance(one.get(key, ""), str) for key in ("name", "password", "hash")):
            return False
        if "until" in one:
            _time(one["until"])
    return "now" in record


def read(text: str) -> State:
    """:raises UsersError: for what `write` did not write."""
    try:
        state = json.loads(text) if text else {}
        if all(map(_is_record, state.values())):
            return state
    except (ValueError, LookupError, TypeError, AttributeError):
        pass
    raise UsersError("its key 'users' is not what this collection wrote. Restore it, or remove the Secret, and run site.yml")


def write(state: State) -> str:
    """The same state gives the same text."""
    return json.dumps(state, ensure_ascii=False, indent=1, sort_keys=True)


class Passwords(Secret):
    """The Secret of the credentials, as it was when it was read. Raises ClusterError."""

    def __init__(self, client: Client, owner: Owner, **options: str) -> None:
        super().__init__(client, owner, "passwords", "users", **options)
        try:
            self.state = read(self.text)
        except UsersError as error:
            raise UsersError(f"{self.where}: {error}") from None

    def prover(self) -> Credential:
        """The credential in force of the first user whose password is known.

        :raises UsersError: if there is none.
        """
        for _user, record in sorted(self.state.items()):
            if record["now"].get("password") is not None:
                return record["now"]
        raise UsersError(f"{self.where} holds no user whose password is known. Set the password of a user, and run site.yml")


def check(users: t.Sequence[htpasswd.User]) -> None:
    """:raises UsersError: for users that no cache can have."""
    try:
        # A password that is yet to be made is none that is missing.
        htpasswd.check_users([user if user.password is not None or user.hash else user._replace(password="x") for user in users])
    except htpasswd.UserError as error:
        raise UsersError(f"users: {error}") from None
    if taken := [user.name for user in users if _GENERATION.fullmatch(user.name)]:
        raise UsersError(
            f"users: the user name '{taken[0]}' ends in .g and a number, as those that rotate.yml makes. Choose another one"
        )


def _generation(user: str, name: str) -> int | None:
    """0 for the inventory's own name, 1 and more for those that rotations made; None for another user's."""
    found = _GENERATION.fullmatch(name)
    return 0 if name == user else int(found[2]) if found and found[1] == user else None


def _successor(user: str, name: str) -> str:
    return f"{user}.g{(_generation(user, name) or 0) + 1}"


def _only_hash(user: htpasswd.User) -> bool:
    return user.password is None and user.hash is not None


def make_password() -> str:
    """More than 128 random bits as letters and digits."""
    return "".join(secrets.choice(_LETTERS) for _letter in range(_LENGTH))


def _credential(name: str, user: htpasswd.User) -> Credential:
    """With the inventory's password, or one that is made here."""
    password = user.password if user.password is not None else make_password()
    return {"name": name, "password": password, **({"hash": user.hash} if user.hash else {})}


def _recovered(user: htpasswd.User, hashes: dict[str, str]) -> dict[str, Credential] | None:
    """What the htpasswd file alone still tells of a user; without a password unless the inventory's is the one."""
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
    """The state with the inventory's users: who is new gets a credential, who left loses it. Nothing else changes,
    but what is old goes when its time is over.

    :param hashes: of the htpasswd file as it is, by name.
    :param rotating: whether passwords of the inventory that are not in force are about to come.
    :raises UsersError: for those unless rotating, and for new users if rotating.
    """
    result: State = {}
    for user in users:
        if _only_hash(user):
            continue
        record = copy.deepcopy(state.get(user.name)) or _recovered(user, hashes)
        if record is None and rotating:
            raise UsersError(f"users: user '{user.name}' is not in the cache yet. Run site.yml first, which adds new users")
        if record is None:
            record = {"now": _credential(user.name, user)}
        held = record["now"].get("password")
        if user.password is None and held is None:
            # Lost with its Secret, but still in pull secrets.
            record = {"now": _credential(_successor(user.name, record["now"]["name"]), user), "old": record["now"]}
        elif user.password is not None and user.password == held:
            # Also where the inventory has gone back to it.
            record.pop("next", None)
            if user.hash:
                record["now"]["hash"] = user.hash
        elif user.password is not None and user.password != record.get("next", {}).get("password") and not rotating:
            raise UsersError(
                f"users: the password of user '{user.name}' is not the one in force, which is in pull secrets. {_ROTATE};"
                " or set the one in force again"
            )
        if "old" in record and "until" in record["old"] and _time(record["old"]["until"]) <= now:
            record["old"]["dropped"] = True
        result[user.name] = record
    return result


def issue(state: State, users: t.Sequence[htpasswd.User], chosen: t.Collection[str]) -> State:
    """The state with a credential to come, beside the one in force, for the chosen users, or for all of them if none is chosen.
    Those of whom one is being replaced already are gone on with.

    :raises UsersError: for users who cannot have a new one.
    """
    result = copy.deepcopy(state)
    if unknown := sorted(set(chosen) - {user.name for user in users}):
        raise UsersError(
            f"rotate: there is no user {', '.join(unknown)}."
            f" Name some of {', '.join(user.name for user in users)}"
        )
    unchanged = []
    for user in users:
        if chosen and user.name not in chosen:
            continue
        if _only_hash(user):
            if chosen:
                raise UsersError(
                    f"rotate: of user '{user.name}' only a hash is known. Set another hash, and run site.yml;"
                    " for a change without a failed pull name a second user, move the clients, and remove the first"
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
            f"users: the password of user {', '.join(unchanged)} is the one in force. Set a new one; or leave password out, and one is"
            " made; or name the users who get a new one. Example: rotate: [team-a]"
        )
    return result


def activate(state: State) -> State:
    """The state in which what was to come is in force."""
    result = copy.deepcopy(state)
    for record in result.values():
        if "next" in record:
            record["old"], record["now"] = record["now"], record.pop("next")
    return result


def schedule(state: State, now: datetime.datetime, grace: int) -> State:
    """The state that records when each old credential expires; now, if there is no grace."""
    result = copy.deepcopy(state)
    for old in _old(result):
        if not grace or "until" not in old:
            old["until"] = (now + datetime.timedelta(seconds=grace)).strftime(_TIME)
    return result


def prune(state: State) -> State:
    """The state without the records of revoked credentials."""
    return {
        user: {phase: one for phase, one in record.items() if not one.get("dropped")} for user, record in copy.deepcopy(state).items()
    }


def due_in(state: State, now: datetime.datetime) -> int:
    """Seconds until the last of the old ones may go, as far as that is known."""
    times = [_time(old["until"]) for old in _old(state) if "until" in old and not old.get("dropped")]
    return max(0, int((max(times) - now).total_seconds()) + 1) if times else 0


def accounts(state: State, users: t.Sequence[htpasswd.User]) -> list[htpasswd.User]:
    """Everybody in the htpasswd file.

    :raises UsersError: if one of its lines, or the state, has no room in a Secret.
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
            f"users: {len(users)} users need {size} bytes, and a Secret holds no more than 1 MiB. Give several clients one user"
        )
    return result


def moved(state: State, added: t.Collection[str]) -> tuple[list[Credential], list[Credential]]:
    """The credentials that replicas are asked about: those that they must take now, and those that they must refuse.

    :param added: names on the wire that are new in the htpasswd file, or have another hash there.
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
    """A line for each user: names and times only."""
    lines = []
    for user, record in sorted(state.items()):
        words = [f"{user}: {record['now']['name']}"]
        if "next" in record:
            words.append(f"{record['next']['name']} is to come")
        if "old" in record and not record["old"].get("dropped"):
            words.append(f"{record['old']['name']} until {record['old'].get('until', 'every pull secret is replaced')}")
        lines.append(", ".join(words))
    return lines


def rotating(state: State) -> list[str]:
    """The users of whom a credential is being replaced."""
    return sorted(user for user, record in state.items() if len(record) > 1)


def revoked(state: State) -> bool:
    """Whether `prune` has something to remove."""
    return any(old.get("dropped") for old in _old(state))


def _old(state: State) -> list[Credential]:
    return [record["old"] for record in state.values() if "old" in record]


def _time(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, _TIME).replace(tzinfo=datetime.timezone.utc)
