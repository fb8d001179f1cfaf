# SPDX-License-Identifier: GPL-3.0-or-later
"""README's table of figures: a choice of rows from the last results of `make bench` and `make bench-kind`."""

from __future__ import annotations

import json
import pathlib

from sandbox.settings import ROOT

from .report import RESULTS, number

README = ROOT / "README.md"
_BEGIN, _END = "<!-- figures of the last bench -->\n", "<!-- end of figures -->"
# By file: what README says, and the row that it says it of.
ROWS = {
    "latest": {
        "100 clients come while one blob is filled: fetches": (
            "100 clients arriving through a fill of 60 s over 3 replicas: upstream GETs per blob, against distribution 3"
        ),
        "cold image, 100 clients at once: median pull over one client's": (
            "herd of 100 on a cold image, 20 ms, 8 MB/s: p50 over one client's [×], against distribution 3"
        ),
        "cold pull, one client [s]": "cold pull, one client, 3 × 16 MiB, 20 ms, 8 MB/s [s], against distribution 3",
        "warm pull of a small image, credential checked [s]": (
            "warm pull of a small image (5 MiB, 3 layers), bcrypt 10: p50 [s], against distribution 3"
        ),
        "manifests with a credential [1/s]": "manifest GET/s with a credential, bcrypt 12 [1/s], against distribution 3",
        "20 transfers cut in the middle: wrong bodies that ended as complete": (
            "cut in the middle, resumed by Range, 20 blobs: wrong bodies ended as complete, against distribution 3"
        ),
        "upstream hangs: a cached tag, first pull [s]": "upstream hangs, cached tag: first [s], against distribution 3",
        "upstream hangs: a cached tag, next pulls [s]": "upstream hangs, cached tag: next [s], against distribution 3",
        "5 × the limit pulled: disk used, over the limit": (
            "used disk after 5 × the limit, over the limit [×], against distribution 3"
        ),
    },
    "kind": {
        "3 replicas, the owner's node vanishes under load: failed pulls": "pulls failed, owner's node cut off",
        "3 replicas, rolling restart, blobs of 300 MB: pulls cut": "pulls cut by a rolling restart, 300 MB blobs",
    },
}


def table(folder: pathlib.Path = RESULTS) -> str:
    """The chosen rows as Markdown; those of a command that has not run yet are left out.

    :param folder: where both commands write their results.
    :raises KeyError: a chosen row is not among its command's results.
    """
    lines = ["| measure | this cache | plain `registry:3` |", "| --- | --- | --- |"]
    for stem, rows in ROWS.items():
        if not (folder / f"{stem}.json").exists():
            continue
        found = {row["measure"]: row for row in json.loads((folder / f"{stem}.json").read_text())}
        lines += [f"| {says} | {number(found[row]['ours'])} | {number(found[row]['peer'])} |" for says, row in rows.items()]
    return "\n".join(lines) + "\n"


def write() -> None:
    """Put the table into README, in place of the last one."""
    before, _, rest = README.read_text().partition(_BEGIN)
    README.write_text(before + _BEGIN + table() + rest[rest.index(_END) :])


def shown() -> str:
    """The table as README has it."""
    _, _, rest = README.read_text().partition(_BEGIN)
    return rest.partition(_END)[0]
