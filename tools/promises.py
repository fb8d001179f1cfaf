# SPDX-License-Identifier: GPL-3.0-or-later
"""The table of promises in docs/development/testing.md, made of tests/tiers.toml."""

from __future__ import annotations

import re

from . import tiers

PAGE = tiers.ROOT / "docs" / "development" / "testing.md"
_BEGIN, _END = "<!-- promises -->", "<!-- end of promises -->"


def table() -> str:
    """Markdown: every promise with its page, its tests and their tier."""
    lines = ["| page | promise | test | tier |", "| --- | --- | --- | --- |"]
    for promise in tiers.promises():
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in promise.tests)
        names = dict.fromkeys(map(tiers.tier, promise.tests))
        lines.append(f"| {promise.page}: {promise.about} | {promise.promise} | {tests} | {', '.join(names)} |")
    return "\n".join(lines)


def written() -> str:
    """The page with today's table.

    :raises ValueError: when the page has no place for it.
    """
    text, number = re.subn(f"{_BEGIN}.*{_END}", lambda _: f"{_BEGIN}\n{table()}\n{_END}", PAGE.read_text(), flags=re.DOTALL)
    if number != 1:
        raise ValueError(f"{PAGE}: write the lines '{_BEGIN}' and '{_END}', once each")
    return text


if __name__ == "__main__":
    PAGE.write_text(written())
