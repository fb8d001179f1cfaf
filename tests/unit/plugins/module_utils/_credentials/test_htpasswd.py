# SPDX-License-Identifier: GPL-3.0-or-later
"""Properties of any htpasswd text with any users. hypothesis searches for counterexamples."""

from __future__ import annotations

import functools
import re
import string

import bcrypt
import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

COST = 4


@functools.cache
def hashed(password: str) -> str:
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(COST)).decode()


# Only a few names, so that wanted users are often in the text.
NAMES = st.sampled_from(["a", "b", "c", "team-é", "with space", "a.b", "A"])
PASSWORDS = st.sampled_from(["one", "two", "ü" * 36])
HASH_TEXTS = st.text(string.ascii_letters + string.digits + "$./{}=", min_size=1, max_size=20)
HASHES = st.one_of(PASSWORDS.map(lambda password: hashed(password)), st.just("$apr1$x$y"), HASH_TEXTS)
BLANKS = st.text(" \t\r\x0b\x0c\x85\u2028", max_size=3)
FOREIGN = st.one_of(BLANKS, st.builds("{}#{}".format, BLANKS, st.text(max_size=20).map(lambda text: text.replace("\n", ""))))
ENTRIES = st.builds("{}{}:{}{}".format, BLANKS, NAMES, HASHES, BLANKS)


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Return a text with each user once, and with lines that are not users."""
    entries = draw(st.lists(ENTRIES, max_size=5, unique_by=lambda line: line.strip().partition(":")[0]))
    lines = draw(st.permutations([*entries, *draw(st.lists(FOREIGN, max_size=4))]))
    return "\n".join(lines) + draw(st.sampled_from(["", "\n"]) if lines and lines[-1] else st.just("\n" if lines else ""))


@st.composite
def wanted(draw: st.DrawFn) -> list[htpasswd.User]:
    users = []
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        password, given_hash = draw(PASSWORDS), draw(st.one_of(st.none(), HASHES))
        kind = draw(st.sampled_from(["password", "hash", "absent"]))
        if kind == "hash" and given_hash:
            users.append(htpasswd.User(name, None, hash=given_hash))
        else:
            users.append(htpasswd.User(name, password, present=kind != "absent"))
    return users


def read(text: str) -> dict[str, str]:
    """Return the users like the registry (registry/auth/htpasswd of distribution), which uses the last line of a user."""
    lines = (line.strip() for line in text.split("\n"))
    return {name: rest for name, _, rest in (line.partition(":") for line in lines if line and not line.startswith("#"))}


def foreign(text: str) -> list[str]:
    lines = text.split("\n")[: -1 if text.endswith("\n") or not text else None]
    return [line for line in lines if not line.strip() or line.strip().startswith("#")]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(texts(), wanted(), st.booleans())
def test_parse_write_parse(text: str, users: list[htpasswd.User], exclusive: bool) -> None:
    after, actions = htpasswd.apply(text, users, COST, exclusive)
    before_users, after_users = read(text), read(after)
    present = {user.name: user for user in users if user.present}
    named = {user.name for user in users}

    assert list(htpasswd.parse(after)[1]) == list(after_users)
    kept = {name for name in before_users if name not in named and not exclusive}
    assert after_users.keys() == present.keys() | kept
    assert {name: after_users[name] for name in kept} == {name: before_users[name] for name in kept}
    for name, user in present.items():
        if user.hash is not None:
            assert after_users[name] == user.hash
        else:
            assert bcrypt.checkpw(user.password.encode(), after_users[name].encode())
            assert after_users[name] == before_users.get(name) or actions[name] in ("added", "updated")
    stayed = [name for name in before_users if name in after_users]
    assert [name for name in after_users if name in before_users] == stayed
    assert foreign(after) == foreign(text)
    assert actions or after == text
    assert set(actions) == {name for name in before_users.keys() | after_users.keys() if before_users.get(name) != after_users.get(name)}
    assert htpasswd.apply(after, users, COST, exclusive) == (after, {})


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:# \n\r\t\x85\u2028$"), max_size=40))
def test_any_text_is_parsed_or_refused_with_its_lines(text: str) -> None:
    entries = [line.strip() for line in text.split("\n") if line.strip() and not line.strip().startswith("#")]
    names = [entry.partition(":")[0] for entry in entries]
    sound = all(re.match(r"[^:]+:.", entry, re.DOTALL) for entry in entries)
    if sound and len(set(names)) == len(names):
        assert list(htpasswd.parse(text)[1]) == names
        assert htpasswd.apply(text, [], COST, False) == (text, {})
    else:
        with pytest.raises(htpasswd.TextError, match=r"^line \d+ "):
            htpasswd.parse(text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=80), st.text(max_size=80))
def test_any_user_is_written_or_refused(name: str, password: str) -> None:
    try:
        text, _ = htpasswd.apply("", [htpasswd.User(name, password)], COST, False)
    except (htpasswd.UserError, UnicodeEncodeError) as error:
        assert len(password) < 8 or password in name or password not in str(error)
        return
    assert text.count("\n") == 1 and list(read(text)) == [name]
    assert bcrypt.checkpw(password.encode(), read(text)[name].encode())
    assert not bcrypt.checkpw(password.encode()[:-1], read(text)[name].encode())


@pytest.mark.parametrize(
    "user",
    [
        htpasswd.User("n\udce9", "x", True),
        htpasswd.User("nodes", "of-n\udce9", True),
        htpasswd.User("nodes", None, True, "x\udce9"),
        htpasswd.User("\ud800", "x", True),
    ],
)
def test_users_of_another_encoding(user: htpasswd.User) -> None:
    """Names as Ansible reads them from a file in Latin-1. From 2.19 on, it does not pass them to a module."""
    with pytest.raises(htpasswd.UserError, match="UTF-8") as error:
        htpasswd.check_user(user)
    assert "of-n" not in str(error.value)
