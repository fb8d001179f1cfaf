# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes README's tables of figures and costs: selected rows of the last results of `make bench`."""

from __future__ import annotations

import json
import pathlib
import re

from sandbox.settings import ROOT

from .candidates import NGINX, V3
from .report import RESULTS, number

README = ROOT / "README.md"
_PAGE = "https://github.com/pullthrough/registry_cache/blob/main/bench/results/latest.md"
# By title in README: the measure in the results. Both peers were measured. In the first row, nginx is as good as this cache.
ROWS = {
    "100 clients request a blob that takes 60 s to fetch: upstream requests": (
        "100 clients arriving through a fill of 60 s over 3 replicas: upstream GETs per blob"
    ),
    "20 corrupt blobs from the upstream: served as complete": "one corrupt byte, 20 blobs: wrong bodies ended as complete",
    "pull of a cached 5 MiB image [s]": "warm pull of a small image (5 MiB, 3 layers), bcrypt 10: p50 [s]",
    "cached 256 MiB blob, 8 clients [MiB/s]": "warm blob of 256 MiB, 8 clients [MiB/s]",
}
# By resource: the text in README, the measures that fill its placeholders, and the default of role cache.
COSTS = {
    "disk": ("{} bytes written per byte fetched; never above the limit", ("bytes written to the disk per byte fetched",), "limit 20 GiB"),
    "memory": (
        "{} MiB idle, {} MiB with 100 clients of a 1 GiB blob",
        ("memory with sockets, idle [MiB]", "memory with sockets, 100 clients on a blob of 1024 MiB [MiB]"),
        "request 64 MiB, limit 512 MiB",
    ),
    "CPU": ("{} s per GiB served", ("warm blob of 256 MiB, 8 clients: processor time per GiB [s]",), "request 50m"),
}


def tables(folder: pathlib.Path = RESULTS) -> dict[str, str]:
    """Returns the tables as Markdown, by their name in README. There are none before the first full run.

    :param folder: where `make bench` writes its results.
    :raises KeyError: a selected row is not in the results.
    """
    file = folder / "latest.json"
    if not file.exists():
        return {}
    found = {row["measure"]: row for row in json.loads(file.read_text())}
    figures = ["| measure | this cache | `registry:3` | nginx `proxy_cache` |", "| --- | --- | --- | --- |"]
    for says, measure in ROWS.items():
        plain, nginx = (found[f"{measure}, against {peer}"] for peer in (V3, NGINX))
        figures.append(f"| {says} | {number(plain['ours'])} | {number(plain['peer'])} | {number(nginx['peer'])} |")
    costs = [f"| resource | [measured]({_PAGE}) | default |", "| --- | --- | --- |"]
    for resource, (says, measures, default) in COSTS.items():
        values = [number(found[f"{measure}, against {V3}"]["ours"]) for measure in measures]
        costs.append(f"| {resource} | {says.format(*values)} | {default} |")
    return {"figures": "\n".join(figures) + "\n", "costs": "\n".join(costs) + "\n"}


def _place(name: str) -> re.Pattern[str]:
    return re.compile(f"(?s)(?<=<!-- {name} of the last bench -->\n).*?(?=<!-- end of {name} -->)")


def write() -> None:
    """Replaces the tables in README."""
    text = README.read_text()
    for name, table in tables().items():
        text = _place(name).sub(lambda _, table=table: table, text, count=1)
    README.write_text(text)


def shown() -> dict[str, str]:
    """Returns the current tables in README."""
    return {name: _place(name).findall(README.read_text())[0] for name in ("figures", "costs")}
