# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the text of an htpasswd file to wanted users; a hash is kept while it verifies and is made as wanted.

Private to this collection. passlib's HtpasswdFile is not used: it gives up at the first malformed line and lets
duplicates pass, of which the registry takes the last. Nor is its bcrypt: version 1.7.4 fails with bcrypt 5, and what it
adds to a verification runs on one core.
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
# What Apache's htpasswd writes (and, of crypt's, reads), without plaintext and without des_crypt, which reads 8 bytes.
SCHEMES = ("bcrypt", "apr_md5_crypt", "sha256_crypt", "sha512_crypt", "ldap_sha1")
# bcrypt reads no more; what it would cut off is an error.
MAX_PASSWORD_BYTES = 72
_BYTE_ORDER_MARK = "\ufeff"
_BCRYPT = re.compile(r"\$2[aby]\$(\d\d)\$[./A-Za-z0-9]{53}")


class UserError(ValueError):
    """A user that cannot be taken; the message names it and the fix, never a password or hash."""


class TextError(ValueError):
    """Text that cannot be taken; the message names its lines and the fix, never what a line holds after the user."""


class User(t.NamedTuple):
    """A wanted user: a password, a ready-made hash, or both; neither when it is to be absent."""

    name: str
    password: str | None
    present: bool = True
    hash: str | None = None


def _plain(text: str) -> bool:
    """Whether readers, which trim white space and differ in what they take for a line break, read that and no other text."""
    return text.splitlines() == [text] and text.strip() == text and "\0" not in text


def check_user(user: User) -> None:
    """:raises UserError: for what htpasswd or bcrypt cannot hold."""
    if not _plain(user.name) or ":" in user.name or user.name.startswith("#"):
        raise UserError(
            f"the user name '{user.name}' must not be empty, begin with '#', begin or end with white space,"
            " or hold a colon, a NUL byte or a line break. Choose another one"
        )
    if not user.present:
        return
    for what, text in (("name", user.name), ("password", user.password), ("hash", user.hash)):
        # Ansible reads other bytes of files and of the environment as surrogates.
        if any("\ud800" <= character <= "\udfff" for character in text or ""):
            name = user.name.encode(errors="backslashreplace").decode()
            raise UserError(f"the {what} of user '{name}' is no text in UTF-8. Convert it, for example by iconv -t UTF-8")
    if user.hash is not None and (not _plain(user.hash) or ":" in user.hash):
        raise UserError(
            f"the hash of user '{user.name}' must be what follows the name and its colon in a line of htpasswd."
            " `htpasswd -nB USER` prints such a line"
        )
    if user.hash is not None and user.password is None:
        return
    if not user.password:
        raise UserError(f"user '{user.name}' has no password. Set password or hash, or state: absent")
    if any(character in user.password for character in "\0\r\n"):
        raise UserError(f"the password of user '{user.name}' holds a NUL byte or a line break. Choose one without")
    length = len(user.password.encode())
    if length > MAX_PASSWORD_BYTES:
        raise UserError(
            f"the password of user '{user.name}' has {length} bytes; bcrypt reads no more than {MAX_PASSWORD_BYTES} bytes."
            " Choose a shorter one"
        )


def check_users(users: t.Sequence[User]) -> None:
    """:raises UserError: for the first user that cannot be taken, or is given twice."""
    names = set()
    for user in users:
        check_user(user)
        if user.name in names:
            raise UserError(f"the user '{user.name}' is given more than once. Name each user once")
        names.add(user.name)


def parse(text: str) -> tuple[list[str], dict[str, int]]:
    """The lines, and for each user the index of its line; read as the registry does
    (github.com/distribution/distribution registry/auth/htpasswd): line feeds alone end a line, and it is trimmed.

    :raises TextError: for malformed and repeated entries, with the number of each line, and for a byte order mark.
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
            wrong.append(f"line {index + 1} holds a NUL byte, as those of UTF-16 do (`iconv -f UTF-16 -t UTF-8 FILE` makes it UTF-8)")
        elif not (name and colon and hashed):
            wrong.append(f"line {index + 1} is not of the form user:hash")
        elif name in places:
            wrong.append(f"line {index + 1} names the user '{shown(name)}' again, after line {places[name] + 1}")
        else:
            places[name] = index
    if wrong:
        raise TextError(f"{'; '.join(wrong)}. Mend or remove what is wrong")
    return lines, places


def shown(name: str) -> str:
    """A user's name for a result, which must be UTF-8: other bytes, such as those of Latin-1, as C(\\xe9)."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def verifies(password: str, hashed: str, schemes: t.Collection[str] = ("bcrypt",)) -> bool:
    """Whether a hash is of one of the schemes and is that password's."""
    try:
        if _BCRYPT.fullmatch(hashed):
            return "bcrypt" in schemes and bcrypt.checkpw(password.encode(), hashed.encode())
        others = [_passlib(scheme) for scheme in schemes if scheme != "bcrypt"]
        return any(other.identify(hashed) and other.verify(password, hashed) for other in others)
    except ValueError:
        return False


def _passlib(scheme: str) -> t.Any:
    """passlib's or libpass's handler of a scheme."""
    from passlib import hash as handlers  # only who wants another scheme than bcrypt needs it

    return getattr(handlers, scheme)


def missing(schemes: t.Collection[str]) -> str | None:
    """The library that those schemes need and that is not there."""
    if bcrypt is None:
        return "bcrypt"
    try:
        for scheme in set(schemes) - {"bcrypt"}:
            _passlib(scheme)
    except ImportError:
        return "libpass"
    return None


def clashes(schemes: t.Collection[str]) -> bool:
    """Whether those schemes need what two packages have installed into one folder."""
    return bool(set(schemes) - {"bcrypt"}) and all(any(metadata.distributions(name=name)) for name in ("passlib", "libpass"))


def _kept(user: User, hashed: str, schemes: t.Collection[str], cost: int) -> bool:
    """Whether a user's existing hash stays."""
    if user.hash is not None:
        return hashed == user.hash
    made = _BCRYPT.fullmatch(hashed)
    return (made is None or int(made[1]) == cost) and verifies(user.password or "", hashed, schemes)


def _made(user: User, cost: int) -> str:
    """A user's new hash."""
    return user.hash or bcrypt.hashpw((user.password or "").encode(), bcrypt.gensalt(cost)).decode()


def apply(
    text: str,
    users: t.Sequence[User],
    cost: int,
    exclusive: bool,
    schemes: t.Collection[str] = ("bcrypt",),
    made_cost: int | None = None,
) -> tuple[str, dict[str, str]]:
    """Bring a text to the wanted users.

    :param text: the file as it is; comments and the order of lines stay, and all of it where nothing happens.
    :param cost: of bcrypt, as a power of two.
    :param exclusive: whether users that are not named go.
    :param schemes: of existing hashes that are kept while they verify; new ones are bcrypt.
    :param made_cost: of new hashes that are not to stay; C(cost) unless given.
    :return: the new text, and what happens to whom: C(added), C(updated) or C(removed).
    :raises UserError: for users that cannot be taken.
    :raises TextError: for text that cannot be taken.
    """
    check_users(users)
    lines, places = parse(text)
    hashes = {name: lines[index].partition(":")[2].strip() for name, index in places.items()}
    present = {user.name: user for user in users if user.present}

    # bcrypt releases the interpreter's lock: threads use every core.
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        both = [user for user in present.values() if user.hash is not None and user.password is not None]
        for user, right in zip(both, pool.map(lambda user: verifies(user.password, user.hash, schemes), both)):
            if not right:
                raise UserError(
                    f"the hash of user '{user.name}' is not that of its password in any of {', '.join(schemes)}."
                    " Set one of the two, or mend it"
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
