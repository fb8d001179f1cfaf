# SPDX-License-Identifier: GPL-3.0-or-later
"""docs/usage: the reference names everything, a test runs every command, and messages are those of the code."""

from __future__ import annotations

import ast
import functools
import pathlib
import re
from dataclasses import dataclass

import pytest

from sandbox.settings import ROOT

USAGE = ROOT / "docs" / "usage"
PAGES = sorted(USAGE.glob("*.md"))
REFERENCE = (USAGE / "reference.md").read_text()
# `tested by`: the test runs such a command, and both contain the words. `run by`: the test takes the commands from the page.
_MARK = re.compile(r"<!-- (?:tested by (?P<tested>\S+): (?P<words>\S.*)|run by (?P<run>\S+)|needs a Google project) -->")
_LANGUAGES = {"sh", "yaml", "promql"}


def test_every_role_and_playbook_is_in_one_table() -> None:
    table = REFERENCE.split("| playbook or role |")[1].split("\n\n")[0]
    rows = re.findall(r"(?m)^\| \[`([\w.]+)`\]\(\.\./\.\./([\w./]+)\) \| (.+) \|$", table)
    playbooks = {path.name: f"playbooks/{path.name}" for path in ROOT.glob("playbooks/*.yml")}
    roles = {path.name: f"roles/{path.name}/README.md" for path in (ROOT / "roles").iterdir()}
    assert {name: link for name, link, _ in rows} == playbooks | roles


@pytest.mark.parametrize("kind", ["modules", "filter", "lookup"])
def test_every_plugin_is_named(kind: str) -> None:
    names = {path.stem for path in (ROOT / "plugins" / kind).glob("[a-z]*.py")}
    # "`NAME`, with `_info`" names both.
    named = set(re.findall(r"`(\w+)`", REFERENCE))
    assert names and {name for name in names if name not in named and name.removesuffix("_info") not in named} == set()


@dataclass(frozen=True)
class Block:
    """A code block of a page, with the comments on the lines before it."""

    page: str
    language: str
    text: str
    comments: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """Each command in one line, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def blocks(page: str, text: str) -> list[Block]:
    found = []
    for match in re.finditer(r"(?ms)((?:^<!-- .*? -->\n)*)^ *```([^\n]*)\n(.*?)^ *```$", text):
        comments, language, body = match.groups()
        found.append(Block(page, language.strip(), body, tuple(comments.splitlines())))
    return found


BLOCKS = [block for page in PAGES for block in blocks(page.name, page.read_text())]


def main_part(command: str) -> str:
    """The playbook that a command runs, or its first word."""
    playbook = re.search(r"playbooks/(\w+\.yml)|pullthrough\.registry_cache\.\w+", command)
    if command.startswith("ansible-playbook") and playbook:
        return playbook[1] or playbook[0]
    return command.split()[0]


@functools.cache
def node_ids(file: pathlib.Path) -> set[str]:
    """The tests of a file, as the part of their ids after the file."""
    found = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


@functools.cache
def source(file: pathlib.Path) -> str:
    """The code of a test: its file, what that imports of tests, and every conftest.py above; without quotes, commas and brackets."""
    files = [file, *(folder / "conftest.py" for folder in file.parents if (ROOT / "tests") in (folder, *folder.parents))]
    for module in re.findall(r"(?m)^from (\.\w+|tests\.[\w.]+) import", file.read_text()):
        path = file.parent / module[1:] if module.startswith(".") else ROOT / module.replace(".", "/")
        files.append(path.with_suffix(".py"))
    text = " ".join(one.read_text() for one in files if one.exists())
    return plain(text)


def plain(text: str) -> str:
    return re.sub(r"[\"'`,()\[\]\s]+", " ", text).strip()


def problems(block: Block) -> list[str]:
    """What is wrong with the marks of a block of commands."""
    marks = [_MARK.fullmatch(comment) for comment in block.comments]
    if not marks or not all(marks):
        return ["it needs '<!-- tested by FILE::TEST: WORDS -->' or '<!-- needs a Google project -->' on the line before"]
    found = []
    for mark in filter(None, marks):
        if not (node := mark["tested"] or mark["run"]):
            continue
        file, _colons, test = node.partition("::")
        if not (ROOT / file).is_file() or (test and test not in node_ids(ROOT / file)):
            found.append(f"there is no test {node}")
        elif (words := mark["words"] or block.page) and plain(words) not in source(ROOT / file):
            found.append(f"{node} does not contain '{words}'")
    words = [mark["words"] for mark in marks if mark and mark["words"]]
    if all(mark and mark["words"] for mark in marks):
        covered = [any(one in command and main_part(command) in one for one in words) for command in block.commands]
        found += [f"no mark is for '{command}'" for command, covers in zip(block.commands, covered, strict=True) if not covers]
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_code_block_says_what_it_is(page: pathlib.Path) -> None:
    """So that no command hides in a block without a language, or in an indented one."""
    text = page.read_text()
    assert {block.language for block in BLOCKS if block.page == page.name} <= _LANGUAGES
    assert text.count("```") == 2 * len(blocks(page.name, text))
    assert not re.search(r"\n\n {4,}\S", text)


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.language == "sh"], ids=lambda block: f"{block.page}: {block.commands[0]}")
def test_every_command_is_run_by_a_test_or_needs_google(block: Block) -> None:
    assert not problems(block)


@pytest.mark.parametrize(
    ("marks", "problem"),
    [
        ((), "it needs"),
        (("<!-- tested -->",), "it needs"),
        (("<!-- tested by tests/no_such_file.py::test_it: playbooks/site.yml -->",), "there is no test"),
        (("<!-- tested by tests/e2e/site/test_uninstall.py::test_no_such: playbooks/site.yml -->",), "there is no test"),
        (("<!-- tested by tests/e2e/site/test_uninstall.py::test_absent: playbooks/site.yml --no-such -->",), "does not contain"),
        (("<!-- tested by tests/e2e/site/test_uninstall.py::test_absent: ansible-playbook -->",), "no mark is for"),
        (("<!-- run by tests/e2e/site/test_uninstall.py::test_absent -->",), "does not contain"),
    ],
)
def test_a_wrong_mark_is_found(marks: tuple[str, ...], problem: str) -> None:
    block = Block("no-such-page.md", "sh", "ansible-playbook playbooks/site.yml --no-such\n", marks)
    assert any(problem in one for one in problems(block))


# What the kubelet, containerd and Kubernetes print.
_FOREIGN = {
    "http: server gave HTTP response to HTTPS client",
    "dial tcp 127.0.0.1:30026: connect: connection refused",
    "dial tcp 127.0.0.1:30026: i/o timeout",
    "Unable to retrieve some image pull secrets",
    "no basic auth credentials",
    "404 Not Found",
    "429 Too Many Requests",
    "502 Bad Gateway",
    "503 Service Unavailable",
    "504 Gateway Timeout",
    "connection reset by peer",
}
_COMMANDS = ("kubectl ", "pip ", "gcloud ")


def code() -> str:
    """The code with messages for users, each literal in one piece."""
    globs = ("plugins/**/*.py", "roles/*/tasks/*.yml", "roles/*/vars/*.yml", "playbooks/**/*.yml", "docker/registry/internal/*/*.go")
    files = [file for glob in (*globs, "sandbox/google/google_emulator/*.py") for file in ROOT.glob(glob)]
    text = "\n".join(file.read_text() for file in files)
    return re.sub(r"\s+", " ", re.sub(r'"\s*\n\s*f?"', "", text))


def test_the_messages_of_troubleshooting_are_those_of_the_code() -> None:
    page = re.sub(r"(?s)```.*?```", "", (USAGE / "troubleshooting.md").read_text())
    quoted = {text for text in re.findall(r"`([^`]+)`", page) if text.count(" ") > 1}
    messages = {message for message in quoted - _FOREIGN if not message.startswith(_COMMANDS)}
    assert quoted >= _FOREIGN and len(messages) > 25
    known = code()
    assert not [message for message in messages if any(part.strip() not in known for part in message.split("…"))]
