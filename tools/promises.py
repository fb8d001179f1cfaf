# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the table of promises in docs/development/testing.md from tests/tiers.toml."""

from __future__ import annotations

import re

from . import tiers

PAGE = tiers.ROOT / "docs" / "development" / "testing.md"
_BEGIN, _END = "<!-- promises -->", "<!-- end of promises -->"


def table() -> str:
    """Returns a Markdown table of all promises with their page, tests and tier."""
    lines = ["| page | promise | test | tier |", "| --- | --- | --- | --- |"]
    for promise in tiers.promises():
        tests = "<br>".join(f"`{test.removeprefix('tests/')}`" for test in promise.tests)
        names = dict.fromkeys(map(tiers.tier, promise.tests))
        lines.append(f"| {promise.page}: {promise.about} | {promise.promise} | {tests} | {', '.join(names)} |")
    return "\n".join(lines)


def written() -> str:
    """Returns the page with the current table.

    :raises ValueError: the page does not have the markers.
    """
    text, number = re.subn(f"{_BEGIN}.*{_END}", lambda _: f"{_BEGIN}\n{table()}\n{_END}", PAGE.read_text(), flags=re.DOTALL)
    if number != 1:
        raise ValueError(f"{PAGE} must have the lines '{_BEGIN}' and '{_END}', once each")
    return text


if __name__ == "__main__":
    PAGE.write_text(written())
