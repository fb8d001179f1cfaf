# SPDX-License-Identifier: GPL-3.0-or-later
"""Module htpasswd, with option path and with option content."""

from __future__ import annotations

import json
import os
import pathlib
import stat
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import htpasswd as _htpasswd
from ansible_collections.pullthrough.registry_cache.plugins.modules import htpasswd
from passlib.hash import apr_md5_crypt, bcrypt, ldap_sha1, sha256_crypt, sha512_crypt

from tests.module_runner import run

COST = 4
NODES, CI = "nodes-password-1", "ci-password-2"


def user(name: str, password: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, **({} if password is None else {"password": password}), **more}


def hashed(password: str, cost: int = COST) -> str:
    return bcrypt.using(rounds=cost).hash(password)


def entries(text: str) -> dict[str, str]:
    return dict(line.split(":", 1) for line in text.splitlines() if line and not line.startswith("#"))


class Text:
    """An htpasswd text that the module manages, in a file or not."""

    def __init__(self, path: pathlib.Path | None) -> None:
        self.path = path
        self._content = ""

    def get(self) -> str:
        if self.path is None:
            return self._content
        return self.path.read_bytes().decode() if self.path.exists() else ""

    def put(self, text: str) -> None:
        if self.path is None:
            self._content = text
        else:
            self.path.write_bytes(text.encode())
            self.path.chmod(0o600)

    def run(self, *users: dict[str, Any], check: bool = False, **arguments: Any) -> dict[str, Any]:
        source = {"content": self._content} if self.path is None else {"path": str(self.path)}
        result = run("htpasswd", with_secrets=True, check=check, **{**source, "users": list(users), "cost": COST, **arguments})
        if self.path is None and not check and not result.get("failed"):
            self._content = result["content"]
        return result


@pytest.fixture(params=["path", "content"])
def text(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Text:
    return Text(tmp_path / "htpasswd" if request.param == "path" else None)


@pytest.fixture
def file(tmp_path: pathlib.Path) -> Text:
    return Text(tmp_path / "htpasswd")


def mode(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# The usual sequence


def test_story(text: Text) -> None:
    wanted = [user("nodes", NODES), user("ci", CI)]

    check = text.run(*wanted, check=True)
    assert check["changed"] and check["users"] == ["nodes", "ci"]
    assert text.get() == "" and (text.path is None or not text.path.exists())

    change = text.run(*wanted)
    assert change["changed"] and change["users"] == ["nodes", "ci"]
    assert change["diff"] == check["diff"] == {"before": "", "after": "nodes (added)\nci (added)\n"}
    written = text.get()
    assert list(entries(written)) == ["nodes", "ci"] and written.endswith("\n")
    assert bcrypt.verify(NODES, entries(written)["nodes"]) and bcrypt.verify(CI, entries(written)["ci"])
    assert not bcrypt.verify(CI, entries(written)["nodes"])

    for check_mode in (False, True):
        repeat = text.run(*wanted, check=check_mode)
        assert not repeat["changed"] and repeat["users"] == ["nodes", "ci"]
        assert repeat["diff"]["before"] == repeat["diff"]["after"]
        assert text.get() == written


def test_unchanged_file_is_not_written(file: Text) -> None:
    file.run(user("nodes", NODES))
    assert file.path
    before = file.path.stat()
    file.run(user("nodes", NODES))
    after = file.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_check_mode_leaves_an_existing_text(text: Text) -> None:
    text.put(f"nodes:{hashed('old')}\n")
    before = text.get()
    assert text.run(user("nodes", NODES), user("ci", CI), check=True)["changed"]
    assert text.get() == before


def test_missing_file_without_users_is_created(file: Text) -> None:
    assert file.path
    assert file.run(check=True)["changed"] and not file.path.exists()
    assert file.run()["changed"] and file.path.read_text() == ""
    assert not file.run()["changed"]


@pytest.mark.parametrize("arguments", [{}, {"path": "/x", "content": ""}])
def test_exactly_one_of_path_and_content(arguments: dict[str, str]) -> None:
    result = run("htpasswd", with_secrets=True, users=[], **arguments)
    assert result["failed"] and "path" in result["msg"] and "content" in result["msg"]


# Hashes


def test_password_change(text: Text) -> None:
    text.run(user("nodes", NODES), user("ci", CI))
    before = entries(text.get())
    result = text.run(user("nodes", "another"), user("ci", CI))
    after = entries(text.get())
    assert result["changed"] and result["diff"] == {"before": "nodes\nci\n", "after": "nodes (updated)\nci\n"}
    assert bcrypt.verify("another", after["nodes"]) and after["ci"] == before["ci"]


def test_cost_change_replaces_the_hash(text: Text) -> None:
    text.run(user("nodes", NODES))
    assert bcrypt.from_string(entries(text.get())["nodes"]).rounds == COST
    assert text.run(user("nodes", NODES), cost=5)["changed"]
    after = entries(text.get())["nodes"]
    assert bcrypt.from_string(after).rounds == 5 and bcrypt.verify(NODES, after)
    assert not text.run(user("nodes", NODES), cost=5)["changed"]
    assert text.run(user("nodes", NODES), cost=COST)["changed"]


def test_cost_is_not_applied_to_users_that_are_not_named(text: Text) -> None:
    text.put(f"ci:{hashed(CI, 5)}\n")
    before = entries(text.get())["ci"]
    text.run(user("nodes", NODES))
    assert entries(text.get())["ci"] == before


def test_default_cost_is_10(file: Text) -> None:
    assert file.path
    run("htpasswd", with_secrets=True, path=str(file.path), users=[user("nodes", NODES)])
    assert bcrypt.from_string(entries(file.get())["nodes"]).rounds == 10


@pytest.mark.parametrize("ident", ["2a", "2b", "2y"])
def test_hash_of_another_tool_is_kept(text: Text, ident: str) -> None:
    text.put(f"nodes:{bcrypt.using(rounds=COST, ident=ident).hash(NODES)}\n")
    before = text.get()
    assert f"${ident}$" in before
    assert not text.run(user("nodes", NODES))["changed"] and text.get() == before


@pytest.mark.parametrize(
    "other",
    [apr_md5_crypt.hash(NODES), NODES, "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "$2b$04$broken", "$2b$04$é"],
    ids=["apr1", "plain", "sha1", "broken", "not ASCII"],
)
def test_other_scheme(text: Text, other: str) -> None:
    kept = other.replace(NODES, "another")
    text.put(f"kept:{kept}\nnodes:{other}\n")
    result = text.run(user("nodes", NODES))
    assert result["changed"] and "nodes (updated)" in result["diff"]["after"]
    after = entries(text.get())
    assert after["kept"] == kept and bcrypt.verify(NODES, after["nodes"])
    assert not text.run(user("nodes", NODES))["changed"]


@pytest.mark.parametrize("scheme", [apr_md5_crypt, ldap_sha1, sha256_crypt, sha512_crypt, bcrypt])
def test_wanted_scheme_is_kept_while_it_verifies(text: Text, scheme: Any) -> None:
    slow = {bcrypt: COST, sha256_crypt: 1000, sha512_crypt: 1000}
    other = (scheme.using(rounds=slow[scheme]) if scheme in slow else scheme).hash(NODES)
    text.put(f"nodes:{other}\n")
    wanted = {"schemes": [scheme.name]}
    assert not text.run(user("nodes", NODES), **wanted)["changed"]
    assert text.run(user("nodes", CI), check=True, **wanted)["changed"] and text.get() == f"nodes:{other}\n"
    assert text.run(user("nodes", CI), **wanted)["changed"]
    assert bcrypt.verify(CI, entries(text.get())["nodes"])
    assert text.run(user("nodes", CI), schemes=["ldap_sha1"])["changed"]


# Given hashes


@pytest.mark.parametrize("other", [apr_md5_crypt.hash(NODES), hashed(NODES, 5), "anything"], ids=["apr1", "bcrypt", "anything"])
def test_ready_made_hash_is_written_unchanged(text: Text, other: str) -> None:
    wanted = [user("ci", CI), user("nodes", hash=other)]
    assert text.run(*wanted, check=True)["changed"] and text.get() == ""
    assert text.run(*wanted)["changed"] and entries(text.get())["nodes"] == other
    assert not text.run(*wanted)["changed"]
    wanted[1] = user("nodes", hash=hashed(CI))
    assert text.run(*wanted)["diff"]["after"] == "ci\nnodes (updated)\n"
    assert entries(text.get())["nodes"] == wanted[1]["hash"]


def test_ready_made_hash_with_its_password(text: Text) -> None:
    right = user("nodes", NODES, hash=hashed(NODES, 5))
    assert text.run(right)["changed"] and not text.run(right)["changed"]
    assert entries(text.get())["nodes"] == right["hash"]
    assert "the hash of user 'nodes'" in refused(text, user("nodes", CI, hash=hashed(NODES)))
    assert "the hash of user 'nodes'" in refused(text, user("nodes", NODES, hash=apr_md5_crypt.hash(NODES)))
    assert text.run(user("nodes", NODES, hash=apr_md5_crypt.hash(NODES)), schemes=["apr_md5_crypt"])["changed"]


@pytest.mark.parametrize("bad", ["", "nodes:$2b$04$x", "two\nlines", " spaced", "a\0b"])
def test_bad_hash(text: Text, bad: str) -> None:
    assert "the hash of user 'nodes'" in refused(text, user("nodes", hash=bad))


# Present and absent users


def test_additive_keeps_users_that_are_not_named(text: Text) -> None:
    text.put(f"other:{hashed('x')}\n")
    before = text.get()
    assert text.run(user("nodes", NODES))["users"] == ["other", "nodes"]
    assert text.get().startswith(before)


def test_exclusive_removes_users_that_are_not_named(text: Text) -> None:
    text.put(f"other:{hashed('x')}\nnodes:{hashed(NODES)}\n")
    kept = entries(text.get())["nodes"]
    wanted = {"exclusive": True}
    assert text.run(user("nodes", NODES), check=True, **wanted)["users"] == ["nodes"]
    result = text.run(user("nodes", NODES), **wanted)
    assert result["changed"] and result["users"] == ["nodes"]
    assert result["diff"] == {"before": "other\nnodes\n", "after": "nodes\n"}
    assert text.get() == f"nodes:{kept}\n"
    assert not text.run(user("nodes", NODES), **wanted)["changed"]


def test_exclusive_without_users_empties(text: Text) -> None:
    text.put(f"# kept\nother:{hashed('x')}\n")
    assert text.run(exclusive=True)["users"] == []
    assert text.get() == "# kept\n"


def test_absent(text: Text) -> None:
    text.run(user("nodes", NODES), user("ci", CI))
    nodes = entries(text.get())["nodes"]
    gone = user("ci", state="absent")
    assert text.run(gone, check=True)["changed"] and "ci" in entries(text.get())
    result = text.run(gone)
    assert result["changed"] and result["users"] == ["nodes"]
    assert text.get() == f"nodes:{nodes}\n"
    assert not text.run(gone)["changed"]


def test_comments_and_order_are_kept(text: Text) -> None:
    first, last = hashed("x"), hashed("y")
    text.put(f"# one: a comment\n\nzoe:{first}\n# two\nnodes:{hashed('old')}\ngone:{first}\n   \nanna:{last}")
    result = text.run(user("new", CI), user("nodes", NODES), user("gone", state="absent"))
    assert result["users"] == ["zoe", "nodes", "anna", "new"]
    made = entries(text.get().replace("   \n", ""))
    assert text.get() == (
        f"# one: a comment\n\nzoe:{first}\n# two\nnodes:{made['nodes']}\n   \nanna:{last}\nnew:{made['new']}\n"
    )


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_unchanged_text_is_returned_as_it_is(text: Text, ending: str) -> None:
    content = f"# a comment\r\nnodes:{hashed(NODES)}{ending}"
    text.put(content)
    assert not text.run(user("nodes", NODES))["changed"] and text.get() == content


@pytest.mark.parametrize("comment", ["# form\x0cfeed", "# next\x85line", "# a\u2028b", "  # indented: note", "\t#", "#\r"])
def test_foreign_lines_are_kept(text: Text, comment: str) -> None:
    text.put(f"{comment}\nnodes:{hashed('old')}\n")
    assert text.run(user("nodes", NODES), exclusive=True)["users"] == ["nodes"]
    assert text.get().startswith(f"{comment}\nnodes:$2b$") and text.get().count("\n") == 2


def test_indented_entry_is_an_entry(text: Text) -> None:
    # The registry trims lines.
    text.put(f"  nodes:{hashed(NODES)}\n\tci:{hashed(CI)}\n")
    assert not text.run(user("nodes", NODES))["changed"]
    assert text.run(user("ci", state="absent"), user("nodes", "another"))["users"] == ["nodes"]
    assert list(entries(text.get())) == ["nodes"]


# Errors, after which nothing is written


def refused(text: Text, *users: dict[str, Any], **arguments: Any) -> str:
    """Return the error message. The text and its file must be unchanged."""
    content = text.get()
    before = text.path.stat() if text.path and text.path.exists() else None
    result = text.run(*users, **arguments)
    assert result.get("failed"), result
    assert text.get() == content
    if text.path:
        after = text.path.stat() if text.path.exists() else None
        assert (before and (before.st_ino, before.st_mtime_ns)) == (after and (after.st_ino, after.st_mtime_ns))
    for one in users:
        assert not one.get("password") or one["password"] not in json.dumps(result, ensure_ascii=False)
    return result["msg"]


@pytest.mark.parametrize("line", ["no-colon", ":hash-without-user", "user-without-hash:", "user-without-hash:  "])
def test_malformed_line(text: Text, line: str) -> None:
    text.put(f"# comment\nfine:{hashed('x')}\n{line}\n")
    message = refused(text, user("nodes", NODES))
    assert "line 3" in message and "Nothing was changed" in message
    assert message.startswith(str(text.path) if text.path else "content")


def test_every_wrong_line_is_reported(text: Text) -> None:
    text.put(f"a:{hashed('x')}\nno-colon\na:y\n:z\n")
    message = refused(text, user("nodes", NODES))
    assert all(part in message for part in ("line 2 must", "line 3 contains the user 'a' again, after line 1", "line 4 must"))


def test_malformed_line_is_not_quoted(text: Text) -> None:
    text.put("$2b$04$averysecrethash\n")
    assert "averysecret" not in refused(text, user("nodes", NODES))


def test_duplicate_line(text: Text) -> None:
    secret = hashed("x")
    text.put(f"nodes:{secret}\n\nci:{secret}\nnodes:{secret}\n")
    message = refused(text, user("nodes", NODES))
    assert "line 4" in message and "line 1" in message and "'nodes'" in message and secret not in message


def test_duplicate_line_that_is_indented(text: Text) -> None:
    text.put(f"nodes:{hashed(NODES)}\n  nodes:{hashed('x')}\n")
    assert "line 2" in refused(text, user("nodes", NODES))


def test_number_of_a_malformed_line_counts_line_feeds(text: Text) -> None:
    text.put("# form\x0cfeed\nno-colon\n")
    assert "line 2 " in refused(text, user("nodes", NODES))


@pytest.mark.parametrize("password", ["x" * 73, "é" * 36 + "x", "€" * 25])
def test_password_over_72_bytes(text: Text, password: str) -> None:
    size = len(password.encode())
    message = refused(text, user("nodes", NODES), user("ci", password))
    assert "'ci'" in message and f"(got {size})" in message and "72 bytes" in message


@pytest.mark.parametrize("password", ["x" * 72, "é" * 36, "€" * 24])
def test_password_of_72_bytes(text: Text, password: str) -> None:
    assert len(password.encode()) == 72
    text.run(user("nodes", password))
    made = entries(text.get())["nodes"]
    assert bcrypt.verify(password, made) and not bcrypt.verify(password[:-1] + "y", made)
    assert not text.run(user("nodes", password))["changed"]


def test_nul_in_password(text: Text) -> None:
    assert "NUL" in refused(text, user("nodes", "before\0after"))


@pytest.mark.parametrize("end", ["\n", "\r"])
def test_line_break_in_password(text: Text, end: str) -> None:
    assert "line break" in refused(text, user("nodes", f"as read from a file{end}"))


@pytest.mark.parametrize("password", ["", None])
def test_no_password(text: Text, password: str | None) -> None:
    text.put(f"nodes:{hashed(NODES)}\n")
    message = refused(text, user("nodes", password))
    assert "'nodes'" in message and "no password" in message


@pytest.mark.parametrize("state", ["present", "absent"])
@pytest.mark.parametrize("name", ["", "a:b", "a\nb", "a\rb", "a\0b", "#a", "a\u2028b", "a\x0bb", "a\x85b", " a", "a\t"])
def test_bad_user_name(text: Text, name: str, state: str) -> None:
    text.put(f"# a\nfine:{hashed('x')}\n")
    assert "user name" in refused(text, user("nodes", NODES), user(name, CI, state=state))


@pytest.mark.parametrize("state", ["present", "absent"])
def test_same_user_twice(text: Text, state: str) -> None:
    message = refused(text, user("ci", CI), user("nodes", NODES), user("nodes", CI, state=state))
    assert "'nodes'" in message and "more than once" in message


@pytest.mark.parametrize("cost", [-1, 0, 3, 18, 31])
def test_cost_out_of_range(text: Text, cost: int) -> None:
    message = refused(text, user("nodes", NODES), cost=cost)
    assert f"cost: must be from 4 to 17 (got {cost})" in message and "4 to 17" in message and "Example: cost: 10" in message


def test_directory(tmp_path: pathlib.Path) -> None:
    result = run("htpasswd", with_secrets=True, path=str(tmp_path), users=[])
    assert result["failed"] and str(tmp_path) in result["msg"]


@pytest.mark.parametrize("content", [f"nodes:{hashed(NODES)}\n", "# a comment: old\n", ""], ids=["entry", "comment", "empty"])
def test_byte_order_mark(text: Text, content: str) -> None:
    text.put(f"\ufeff{content}")
    message = refused(text, user("nodes", NODES))
    assert "line 1 begins with a byte order mark" in message and "Example: sed" in message
    assert message.startswith(str(text.path) if text.path else "content")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16(file: Text, encoding: str) -> None:
    assert file.path
    content = f"# a comment\nnodes:{hashed(NODES)}\n".encode(encoding)
    file.path.write_bytes(content)
    result = file.run(user("nodes", NODES))
    assert result["failed"] and "line 2 contains a NUL byte" in result["msg"] and "iconv" in result["msg"]
    assert file.path.read_bytes() == content


def test_latin_1_is_kept(file: Text) -> None:
    assert file.path
    foreign = f"# caf\xe9: \xa0\nn\xe9e:{hashed(CI)}\n".encode("latin-1")
    file.path.write_bytes(foreign + f"nodes:{hashed('old')}\n".encode())
    result = file.run(user("nodes", NODES), user("née", CI))
    assert result["users"] == ["n\\xe9e", "nodes", "née"] and result["diff"]["after"] == "n\\xe9e\nnodes (updated)\nnée (added)\n"
    written = file.path.read_bytes()
    assert written.startswith(foreign + b"nodes:$2b$") and written.splitlines()[3].startswith("née:".encode())
    json.dumps(result).encode()
    assert not file.run(user("nodes", NODES), user("née", CI))["changed"] and file.path.read_bytes() == written
    assert file.run(user("nodes", NODES), exclusive=True)["users"] == ["nodes"]
    assert file.path.read_bytes().startswith("# caf\xe9: \xa0\nnodes:".encode("latin-1"))


def test_a_duplicate_user_in_latin_1(file: Text) -> None:
    assert file.path
    file.path.write_bytes(b"n\xe9e:a\nn\xe9e:b\n")
    message = file.run(user("nodes", NODES))["msg"]
    assert r"line 2 contains the user 'n\xe9e' again" in message
    message.encode()


def test_without_bcrypt(monkeypatch: pytest.MonkeyPatch, text: Text) -> None:
    monkeypatch.setattr(_htpasswd, "bcrypt", None)
    assert "(bcrypt)" in refused(text, user("nodes", NODES))


def test_bcrypt_alone_needs_no_passlib(monkeypatch: pytest.MonkeyPatch, text: Text) -> None:
    # It does not matter either that passlib 1.7.4 fails with bcrypt 5, or that passlib and libpass overwrite each other.
    text.put(f"nodes:{hashed(NODES)}\nother:{apr_md5_crypt.hash(CI)}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "passlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "passlib", None)
    assert not text.run(user("nodes", NODES))["changed"]
    assert text.run(user("other", CI), user("nodes", "another"))["changed"]
    assert "(libpass)" in refused(text, user("nodes", NODES), schemes=["bcrypt", "ldap_sha1"])


def test_passlib_and_libpass_both_installed(monkeypatch: pytest.MonkeyPatch, text: Text, tmp_path: pathlib.Path) -> None:
    for name in ("passlib-1.7.4", "libpass-1.9.4"):
        folder = tmp_path / "packages" / f"{name}.dist-info"
        folder.mkdir(parents=True)
        (folder / "METADATA").write_text("Name: {}\nVersion: {}\n".format(*name.split("-")))
    monkeypatch.syspath_prepend(tmp_path / "packages")
    message = refused(text, user("nodes", NODES), schemes=["bcrypt", "apr_md5_crypt"])
    assert message.startswith("schemes: passlib and libpass are both installed") and "install libpass" in message
    assert text.run(user("nodes", NODES))["changed"]


# The file


@pytest.mark.parametrize("umask", [0o022, 0o000])
def test_new_file_is_0600_from_its_first_byte(file: Text, monkeypatch: pytest.MonkeyPatch, umask: int) -> None:
    assert file.path
    path, seen = file.path, []
    real = htpasswd.AnsibleModule.atomic_move

    def atomic_move(module: Any, source: str, target: str, **more: Any) -> None:
        seen.append(mode(pathlib.Path(source)))
        real(module, source, target, **more)
        seen.append(mode(path))

    monkeypatch.setattr(htpasswd.AnsibleModule, "atomic_move", atomic_move)
    old = os.umask(umask)
    try:
        file.run(user("nodes", NODES))
    finally:
        os.umask(old)
    assert seen == [0o600, 0o600] and mode(path) == 0o600


@pytest.mark.parametrize("given", ["0640", "u=rw,g=r", 0o640])
def test_given_mode(file: Text, given: str | int) -> None:
    assert file.path
    assert file.run(user("nodes", NODES), mode=given)["changed"] and mode(file.path) == 0o640
    for check_mode in (True, False):
        assert not file.run(user("nodes", NODES), mode=given, check=check_mode)["changed"]
    assert file.run(user("nodes", "another"), mode=given)["changed"] and mode(file.path) == 0o640


@pytest.mark.parametrize("existing", [0o640, 0o644, 0o600])
def test_an_existing_mode_is_kept(file: Text, existing: int) -> None:
    assert file.path
    file.run(user("nodes", NODES))
    file.path.chmod(existing)
    for check_mode in (True, False):
        assert not file.run(user("nodes", NODES), check=check_mode)["changed"] and mode(file.path) == existing
    assert file.run(user("nodes", "another"))["diff"]["after"] == "nodes (updated)\n"
    assert mode(file.path) == existing


def test_the_mode_is_never_wrong(file: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    assert file.path
    path, seen = file.path, []
    file.run(user("nodes", NODES))
    path.chmod(0o640)
    real = os.rename

    def rename(source: Any, target: Any) -> None:
        real(source, target)
        if os.fsdecode(target) == str(path):
            seen.append(mode(path))

    monkeypatch.setattr(os, "rename", rename)
    assert file.run(user("nodes", "another"))["changed"]
    assert seen == [0o640]


@pytest.mark.parametrize("more", [[], [user("ci", CI)]], ids=["alone", "with a user"])
def test_mode_change_is_in_the_diff(file: Text, more: list[dict[str, Any]]) -> None:
    assert file.path
    file.run(user("nodes", NODES), mode="0644")
    before = file.get()
    added = "".join(f"{one['name']} (added)\n" for one in more)
    for check_mode in (True, False):
        result = file.run(user("nodes", NODES), *more, mode="0640", check=check_mode)
        assert result["changed"] and result["diff"] == {"before": "mode: 0644\nnodes\n", "after": f"mode: 0640\nnodes\n{added}"}
        assert mode(file.path) == (0o644 if check_mode else 0o640)
    repeat = file.run(user("nodes", NODES), *more, mode="0640")
    assert not repeat["changed"] and repeat["diff"]["before"] == repeat["diff"]["after"]
    assert file.get().startswith(before)


def test_a_missing_file_with_create_false(file: Text) -> None:
    assert file.path
    for check_mode in (True, False):
        result = file.run(user("nodes", NODES), create=False, check=check_mode)
        assert result["failed"] and "create is false" in result["msg"] and "Example: create: true" in result["msg"]
        assert str(file.path) in result["msg"] and not file.path.exists()
    file.put("")
    assert file.run(user("nodes", NODES), create=False)["changed"]
    assert not file.run(user("nodes", NODES), create=False)["changed"]


def test_a_group_that_cannot_be_kept_is_an_error(file: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    file.run(user("nodes", NODES))

    def chown(*_arguments: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", chown)
    message = refused(file, user("nodes", CI))
    assert message.startswith("path: ") and "Run the task as root" in message and "Example: group: www-data" in message


def test_a_symbolic_link_is_kept(file: Text, tmp_path: pathlib.Path) -> None:
    assert file.path
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "htpasswd"
    file.path.symlink_to(target)
    assert file.run(user("nodes", NODES))["changed"] and file.run(user("nodes", CI))["changed"]
    assert file.path.is_symlink() and mode(target) == 0o600
    assert not file.run(user("nodes", CI))["changed"]


def test_no_directory(tmp_path: pathlib.Path) -> None:
    for check in (True, False):
        result = run("htpasswd", with_secrets=True, check=check, path=str(tmp_path / "none" / "htpasswd"), users=[user("nodes", NODES)])
        assert result["failed"] and f"path: directory {tmp_path / 'none'} of " in result["msg"] and "Example: " in result["msg"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("arguments", [{"owner": "nobody-here"}, {"group": "nobody-here"}, {"mode": "u=bad"}])
@pytest.mark.parametrize("content", ["", f"nodes:{hashed('old')}\n"], ids=["new", "there"])
def test_attributes_that_cannot_be_set(file: Text, content: str, arguments: dict[str, str]) -> None:
    assert file.path
    if content:
        file.put(content)
    before = sorted(file.path.parent.iterdir())
    refused(file, user("nodes", NODES), **arguments)
    assert sorted(file.path.parent.iterdir()) == before


def test_no_temporary_file_is_left(file: Text) -> None:
    assert file.path
    directory = file.path.parent / "alone"
    directory.mkdir()
    file.path = directory / "htpasswd"
    file.run(user("nodes", NODES))
    file.run(user("nodes", CI))
    assert [one.name for one in directory.iterdir()] == ["htpasswd"]


# Secrets


def test_result_of_path_form_holds_no_secret(file: Text) -> None:
    for users in ([user("nodes", NODES)], [user("nodes", CI), user("ci", CI)], [user("ci", state="absent")]):
        hashes = set(entries(file.get()).values())
        result = file.run(*users)
        assert result["changed"] and "content" not in result
        assert result["invocation"]["module_args"]["path"] == str(file.path)
        shown = json.dumps(result)
        for secret in (NODES, CI, "$2", *hashes, *entries(file.get()).values()):
            assert secret not in shown


def test_diff_of_content_form_holds_no_secret() -> None:
    text = Text(None)
    text.run(user("nodes", NODES))
    result = text.run(user("nodes", CI))
    assert result.pop("content") == text.get()
    assert not any(secret in json.dumps(result) for secret in (NODES, CI, "$2"))


@pytest.fixture
def blanked(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The values that Ansible masks in a module's result. They are available after the module has ended."""
    values: set[str] = set()

    class Module(htpasswd.AnsibleModule):
        def exit_json(self, **result: Any) -> NoReturn:
            values.update(self.no_log_values)
            super().exit_json(**result)

    monkeypatch.setattr(htpasswd, "AnsibleModule", Module)
    return values


def test_passwords_are_blanked_and_returned_content_is_not(blanked: set[str]) -> None:
    content = f"nodes:{hashed(NODES)}\n"
    assert run("htpasswd", with_secrets=True, content=content, users=[user("nodes", NODES)], cost=COST)["content"] == content
    assert NODES in blanked and not any(value in content for value in blanked)


def test_password_that_would_be_blanked_in_the_returned_text() -> None:
    text = Text(None)
    text.put("# of the backend team\n")
    assert "users: the password of user 'nodes' also occurs in the returned content" in refused(text, user("nodes", "backend"))


@pytest.mark.parametrize("form", ["path", "content"])
def test_given_hash_is_blanked_where_it_is_not_returned(blanked: set[str], file: Text, form: str) -> None:
    text, secret = file if form == "path" else Text(None), hashed(NODES)
    text.run(user("nodes", hash=secret), user("ci", CI))
    assert blanked == ({CI, secret} if form == "path" else {CI})


# In parallel


def meet(monkeypatch: pytest.MonkeyPatch, method: str) -> Callable[[], int]:
    """Let a bcrypt method continue only when two threads are in it at the same time; return how many were."""
    barrier, met = threading.Barrier(2), []

    real = getattr(_htpasswd.bcrypt, method)

    def slow(*arguments: bytes) -> Any:
        barrier.wait(timeout=10)
        met.append(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(_htpasswd.bcrypt, method, slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    return lambda: len(set(met))


def test_hashes_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = meet(monkeypatch, "hashpw")
    text, actions = _htpasswd.apply("", [_htpasswd.User(n, n, True) for n in ("a", "b", "c", "d")], COST, False)
    assert threads() == 2 and set(actions.values()) == {"added"}
    assert all(_htpasswd.bcrypt.checkpw(name.encode(), made.encode()) for name, made in entries(text).items())


def test_verifies_in_parallel(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "".join(f"{name}:{hashed(name)}\n" for name in ("a", "b", "c", "d"))
    threads = meet(monkeypatch, "checkpw")
    users = [_htpasswd.User(n, n, True) for n in ("a", "b", "c", "d")]
    assert _htpasswd.apply(text, users, COST, False) == (text, {})
    assert threads() == 2
