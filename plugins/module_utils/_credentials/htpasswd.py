# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Updates the text of an htpasswd file. A hash is kept if it matches the password; otherwise it is replaced.

Private to this collection. It does not use passlib's HtpasswdFile, which fails at the first malformed line and accepts duplicates, of
which the registry uses the last one. Nor does it use passlib's bcrypt: version 1.7.4 fails with bcrypt 5, and its additional checks run
on one core.
"""

from __future__ import annotations

import os
import re
import typing as t
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

try:
    import bcrypt
except ImportError:
    bcrypt = None  # type: ignore[assignment]

COSTS = range(4, 18)
# The schemes of Apache's htpasswd and of crypt, without plain text and without des_crypt, which only uses 8 bytes.
SCHEMES = ("bcrypt", "apr_md5_crypt", "sha256_crypt", "sha512_crypt", "ldap_sha1")
# bcrypt ignores further bytes, so a longer password is an error.
MAX_PASSWORD_BYTES = 72
_BYTE_ORDER_MARK = "\ufeff"
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


class UserError(ValueError):
    """An invalid user. The message contains the user and the fix, never a password or hash."""


class TextError(ValueError):
    """Invalid text. The message contains the line numbers and the fix, never the part of a line after the user name."""


class User(t.NamedTuple):
    """A wanted user with a password, a hash, or both. An absent user has neither."""

    name: str
    password: str | None
    present: bool = True
    hash: str | None = None


def _plain(text: str) -> bool:
    """Return whether readers see exactly this text. They trim white space and differ in what is a line break."""
    return text.splitlines() == [text] and text.strip() == text and "\0" not in text


def check_user(user: User) -> None:
    """Raise UserError for a user that htpasswd or bcrypt does not support."""
    if not _plain(user.name) or ":" in user.name or user.name.startswith("#"):
        raise UserError(
            f"the user name '{user.name}' must not be empty, begin with '#', begin or end with white space,"
            " or contain a colon, a NUL byte or a line break. Choose another one, such as nodes"
        )
    if not user.present:
        return
    for what, text in (("name", user.name), ("password", user.password), ("hash", user.hash)):
        # Ansible reads bytes that are not UTF-8 as surrogates, from files and from the environment.
        if any("\ud800" <= character <= "\udfff" for character in text or ""):
            name = user.name.encode(errors="backslashreplace").decode()
            raise UserError(f"the {what} of user '{name}' must be text in UTF-8. Convert it, for example with iconv -t UTF-8")
    if user.hash is not None and (not _plain(user.hash) or ":" in user.hash):
        raise UserError(
            f"the hash of user '{user.name}' must be the part of an htpasswd line after the first colon."
            " `htpasswd -nB USER` prints such a line"
        )
    if user.hash is not None and user.password is None:
        return
    if not user.password:
        raise UserError(f"user '{user.name}' has no password. Set password or hash, or remove the user with state: absent")
    if any(character in user.password for character in "\0\r\n"):
        raise UserError(f"the password of user '{user.name}' contains a NUL byte or a line break. Choose one without them")
    length = len(user.password.encode())
    if length > MAX_PASSWORD_BYTES:
        raise UserError(
            f"the password of user '{user.name}' must have at most {MAX_PASSWORD_BYTES} bytes, the limit of bcrypt (got {length})."
            " Choose a shorter one"
        )


def check_users(users: t.Sequence[User]) -> None:
    """Raise UserError for the first user that is invalid or listed twice."""
    names = set()
    for user in users:
        check_user(user)
        if user.name in names:
            raise UserError(f"the user '{user.name}' is listed more than once. List each user once")
        names.add(user.name)


def parse(text: str) -> tuple[list[str], dict[str, int]]:
    """Return the lines, and for each user the index of its line. Like the registry
    (github.com/distribution/distribution registry/auth/htpasswd), it splits lines only at line feeds, and trims them.

    :raises TextError: for malformed and duplicate entries, with the line numbers, and for a byte order mark.
    """
    if text.startswith(_BYTE_ORDER_MARK):
        raise TextError(
            "line 1 begins with a byte order mark, which readers take for a part of the first user's name."
            r" Remove it. Example: sed -i '1s/^\xEF\xBB\xBF//' FILE"
        )
    lines = text.split("\n")
    if not lines[-1]:
        del lines[-1]
    places: dict[str, int] = {}
    wrong = []
    for index, line in enumerate(lines):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, hashed = entry.partition(":")
        if "\0" in entry:
            wrong.append(f"line {index + 1} contains a NUL byte, as in UTF-16 (convert it with `iconv -f UTF-16 -t UTF-8 FILE`)")
        elif not (name and colon and hashed):
            wrong.append(f"line {index + 1} must have the form user:hash")
        elif name in places:
            wrong.append(f"line {index + 1} contains the user '{shown(name)}' again, after line {places[name] + 1}")
        else:
            places[name] = index
    if wrong:
        raise TextError(f"{'; '.join(wrong)}. Correct or remove these lines")
    return lines, places


def shown(name: str) -> str:
    """Return a user name for a result, which must be UTF-8. Other bytes, such as those of Latin-1, appear as C(\\xe9)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def verifies(password: str, hashed: str, schemes: t.Collection[str] = ("bcrypt",)) -> bool:
    """Return whether a hash has one of these schemes and matches the password."""
    try:
        if _BCRYPT.fullmatch(hashed):
            return "bcrypt" in schemes and bcrypt.checkpw(password.encode(), hashed.encode())
        others = [_passlib(scheme) for scheme in schemes if scheme != "bcrypt"]
        return any(other.identify(hashed) and other.verify(password, hashed) for other in others)
    except ValueError:
        return False


def _passlib(scheme: str) -> t.Any:
    """Return the handler of passlib or libpass for a scheme."""
    from passlib import hash as handlers  # only needed for schemes other than bcrypt

    return getattr(handlers, scheme)


def missing(schemes: t.Collection[str]) -> str | None:
    """Return the name of the missing library for these schemes, or None."""
    if bcrypt is None:
        return "bcrypt"
    try:
        for scheme in set(schemes) - {"bcrypt"}:
            _passlib(scheme)
    except ImportError:
        return "libpass"
    return None


def clashes(schemes: t.Collection[str]) -> bool:
    """Return whether these schemes need a library of which two packages overwrite each other's files."""
    return bool(set(schemes) - {"bcrypt"}) and all(any(metadata.distributions(name=name)) for name in ("passlib", "libpass"))


def _kept(user: User, hashed: str, schemes: t.Collection[str], cost: int) -> bool:
    """Return whether a user's existing hash is kept."""
    if user.hash is not None:
        return hashed == user.hash
    made = _BCRYPT.fullmatch(hashed)
    return (made is None or int(made[1]) == cost) and verifies(user.password or "", hashed, schemes)


def _made(user: User, cost: int) -> str:
    """Return a new hash of a user."""
    return user.hash or bcrypt.hashpw((user.password or "").encode(), bcrypt.gensalt(cost)).decode()


def apply(
    text: str,
    users: t.Sequence[User],
    cost: int,
    exclusive: bool,
    schemes: t.Collection[str] = ("bcrypt",),
    made_cost: int | None = None,
) -> tuple[str, dict[str, str]]:
    """Update a text for the wanted users.

    :param text: current text. Comments and the order of lines are kept. If there is nothing to change, the whole text is kept.
    :param cost: cost of bcrypt, as a power of two.
    :param exclusive: whether to remove users that are not listed.
    :param schemes: schemes of existing hashes to keep if they match. New hashes use bcrypt.
    :param made_cost: cost of new hashes if it differs from that of kept ones, for hashes that are not written.
    :return: the new text, and the change of each changed user: C(added), C(updated) or C(removed).
    :raises UserError: for invalid users.
    :raises TextError: for invalid text.
    """
    check_users(users)
    lines, places = parse(text)
    hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
    present = {user.name: user for user in users if user.present}

    # bcrypt releases the interpreter lock, so threads use all cores.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        both = [user for user in present.values() if user.hash is not None and user.password is not None]
        for user, right in zip(both, pool.map(lambda user: verifies(user.password, user.hash, schemes), both)):
            if not right:
                raise UserError(
                    f"the hash of user '{user.name}' does not match its password with any of the schemes {', '.join(schemes)}."
                    " Set only one of the two, or correct it"
                )
        known = [name for name in present if name in hashes]
        kept = dict(zip(known, pool.map(lambda name: _kept(present[name], hashes[name], schemes, cost), known)))
        stale = [name for name in present if not kept.get(name)]
        made = dict(zip(stale, pool.map(lambda name: _made(present[name], made_cost or cost), stale)))

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
