# SPDX-License-Identifier: GPL-3.0-or-later
"""The text that `make try` prints."""

from __future__ import annotations

from dataclasses import dataclass

from .cache import USER, Cache, Counts


@dataclass(frozen=True)
class Pull:
    """The seconds of a pull, and what the cache counted during it."""

    seconds: float
    counts: Counts


def size(count: float) -> str:
    """Returns a number of bytes as text, such as `8.4 MB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count:.0f} bytes" if count else "nothing"


def numbers(first: Pull, second: Pull, upstream: str, meanwhile: str) -> str:
    """Returns lines that say what was fetched, served and saved.

    :param upstream: the host of the upstream.
    :param meanwhile: a remark about the second pull, or nothing.
    """
    served, fetched = (sum(getattr(pull.counts, name) for pull in (first, second)) for name in ("served", "fetched"))
    saved = 100 * (1 - fetched / served) if served else 0
    return f"""
first pull    {size(first.counts.served)} served in {first.seconds:.2f} s, {size(first.counts.fetched)} fetched from {upstream}
second pull   {size(second.counts.served)} served in {second.seconds:.2f} s, {size(second.counts.fetched)} fetched{meanwhile}
together      {size(served)} served, {size(fetched)} fetched: {saved:.0f} % saved"""


def commands(cache: Cache, paths: list[str]) -> str:
    """Returns commands with which a user can try the cache.

    :param paths: images, without the host; the last one is shown.
    """
    image, secret = cache.reference(paths[-1]), f'"{USER}:$(cat {cache.password})"'
    return f"""
The cache listens on localhost:{cache.port}. User: {USER}; password: in {cache.password}
  curl --user {secret} http://localhost:{cache.port}/v2/{cache.image.repository}/tags/list
  podman pull --tls-verify=false --creds {secret} {image}
  sudo ctr images pull --plain-http --user {secret} {image}
  curl http://localhost:{cache.metrics}/metrics   # its metrics; its log: {cache.log}"""
