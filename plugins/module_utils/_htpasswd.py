# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the text of an htpasswd file to wanted users; a hash is kept while it verifies and is made as wanted.

Private to this collection. passlib's HtpasswdFile is not used: it gives up at the first malformed line and lets
duplicates pass, of which the registry takes the last.
"""

from __future__ import annotations

import os
import typing as t
from concurrent.futures import ThreadPoolExecutor

try:
    from passlib.hash import bcrypt
except ImportError:
    bcrypt = None

COSTS = range(4, 18)
# bcrypt reads no more; what it would cut off is an error.
MAX_PASSWORD_BYTES = 72


class HtpasswdError(ValueError):
    """Text or a user that cannot be taken; the message names the line or the user, never a password or hash."""


class User(t.NamedTuple):
    """A wanted user; without a password when it is to be absent."""

    name: str
    password: str | None
    present: bool


def usable() -> bool:
    """Whether passlib is there with a backend that works; passlib 1.7.4 fails here with bcrypt 5."""
    try:
        return bcrypt is not None and bool(bcrypt.get_backend())
    except (RuntimeError, ValueError):
        return False


def check_user(user: User) -> None:
    """:raises HtpasswdError: for a name or password that htpasswd or bcrypt cannot hold."""
    # Readers trim white space, and differ in what they take for a line break.
    plain = user.name.splitlines() == [user.name] and user.name.strip() == user.name
    if not plain or ":" in user.name or "\0" in user.name or user.name.startswith("#"):
        raise HtpasswdError(
            f"the user name '{user.name}' must not be empty, begin with '#', begin or end with white space,"
            " or hold a colon, a NUL byte or a line break"
        )
    if not user.present:
        return
    if not user.password:
        raise HtpasswdError(f"user '{user.name}' has no password")
    if "\0" in user.password:
        raise HtpasswdError(f"the password of user '{user.name}' holds a NUL byte, which bcrypt cannot hash")
    length = len(user.password.encode())
    if length > MAX_PASSWORD_BYTES:
        raise HtpasswdError(
            f"the password of user '{user.name}' has {length} bytes; bcrypt reads no more than {MAX_PASSWORD_BYTES} bytes"
        )


def parse(text: str) -> tuple[list[str], dict[str, int]]:
    """The lines, and for each user the index of its line; read as the registry does
    (github.com/distribution/distribution registry/auth/htpasswd): line feeds alone end a line, and it is trimmed.

    :raises HtpasswdError: for a malformed or repeated entry, with the number of its line.
    """
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    places: dict[str, int] = {}
    for index, line in enumerate(lines):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, hashed = entry.partition(":")
        if not (name and colon and hashed):
            raise HtpasswdError(f"line {index + 1} is not of the form user:hash")
        if name in places:
            raise HtpasswdError(f"line {index + 1} names the user '{name}' again, after line {places[name] + 1}")
        places[name] = index
    return lines, places


def _kept(password: str, hashed: str, cost: int) -> bool:
    """Whether an existing hash is bcrypt of that cost and verifies; the registry reads no other scheme."""
    try:
        return bcrypt.from_string(hashed).rounds == cost and bcrypt.verify(password, hashed)
    except ValueError:
        return False


def apply(text: str, users: t.Sequence[User], cost: int, exclusive: bool) -> tuple[str, dict[str, str]]:
    """Bring a text to the wanted users.

    :param text: the file as it is; comments and the order of lines stay, and all of it where nothing happens.
    :param cost: of bcrypt, as a power of two.
    :param exclusive: whether users that are not named go.
    :return: the new text, and what happens to whom: C(added), C(updated) or C(removed).
    :raises HtpasswdError: for text or users that cannot be taken.
    """
    for user in users:
        check_user(user)
    names = [user.name for user in users]
    if len(set(names)) != len(names):
        raise HtpasswdError(f"the user '{max(names, key=names.count)}' is given more than once")
    lines, places = parse(text)
    hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
    present = {user.name: user.password or "" for user in users if user.present}

    # bcrypt releases the interpreter's lock: threads use every core.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        known = [name for name in present if name in hashes]
        kept = dict(zip(known, pool.map(lambda name: _kept(present[name], hashes[name], cost), known)))
        stale = [name for name in present if not kept.get(name)]
        hasher = bcrypt.using(rounds=cost)
        made = dict(zip(stale, pool.map(lambda name: hasher.hash(present[name]), stale)))

    gone = {user.name for user in users if not user.present} & places.keys()
    if exclusive:
        gone |= places.keys() - present.keys()
    actions = {name: "updated" if name in places else "added" for name in stale}
    actions.update(dict.fromkeys(gone, "removed"))
    if not actions:
        return text, {}
    for name in stale:
        if name in places:
            lines[places[name]] = f"{name}:{made[name]}"
        else:
            lines.append(f"{name}:{made[name]}")
    dropped = {places[name] for name in gone}
    result = [line for index, line in enumerate(lines) if index not in dropped]
    return "".join(f"{line}\n" for line in result), actions
