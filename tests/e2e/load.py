# SPDX-License-Identifier: GPL-3.0-or-later
"""A client that pulls like containerd, and a load of many clients.

A pull gets the manifest by its tag, then config and layers one after another, over the same connection as long as it
lasts. An interrupted body is resumed by Range after its last byte. What fails (no connection, a broken one, 408, 429,
5xx) is retried after a short pause, at most ATTEMPTS times per body; any other error status, a wrong size or a wrong
digest is the end. Then the pull has failed.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import itertools
import json
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sandbox.client import ACCEPT
from sandbox.seed import Blob, Image
from sandbox.settings import PROJECT, REPOSITORY

ATTEMPTS = 5
_CHUNK = 1 << 16
_BROKEN = (OSError, http.client.HTTPException)


class Failed(Exception):
    """The client gave up."""


@dataclass
class Body:
    """An answer with the correct digest and size. Seconds count from the first attempt."""

    asked: float  # time.monotonic()
    status: int = 0
    content: bytes = b""  # only of a manifest
    first: float = 0
    seconds: float = 0
    silent: float = 0  # the longest time without a byte, after the first one
    troubles: list[str] = field(default_factory=list)


class Client:
    """A client. endpoint: the host and port of all its connections.

    dial, answer: timeouts in seconds, as in containerd 2. bytes_per_second: the reading rate; 0 for no limit.
    """

    def __init__(
        self,
        endpoint: tuple[str, int],
        authorization: str,
        *,
        dial: float = 30,
        answer: float = 30,
        bytes_per_second: int = 0,
    ) -> None:
        self._endpoint, self._authorization = endpoint, authorization
        self._dial, self._answer, self._pace = dial, answer, bytes_per_second
        self._connection: http.client.HTTPConnection | None = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def pull(self, image: Image) -> list[Body]:
        """Pull a complete image by its tag. Raises Failed."""
        manifest = self.manifest(image.name, image.tag, image.digest)
        listed = json.loads(manifest.content)
        blobs = [Blob(blob["digest"], blob["size"]) for blob in (listed["config"], *listed["layers"])]
        return [manifest, *(self.blob(image.name, blob) for blob in blobs)]

    def manifest(self, name: str, reference: str, digest: str) -> Body:
        return self._get(f"/v2/{PROJECT}/{REPOSITORY}/{name}/manifests/{reference}", digest, None)

    def blob(self, name: str, blob: Blob) -> Body:
        return self._get(f"/v2/{PROJECT}/{REPOSITORY}/{name}/blobs/{blob.digest}", blob.digest, blob.size)

    def _get(self, path: str, digest: str, size: int | None) -> Body:
        body, hashed, kept, came = Body(time.monotonic()), hashlib.sha256(), [], 0
        last = 0.0  # time of the last byte
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(0.1 * 2 ** (attempt - 1))
            try:
                answer = self._ask(path, {"Range": f"bytes={came}-"} if came else {})
                body.status = answer.status
                if answer.status in (408, 429) or answer.status >= 500:
                    answer.read()
                    body.troubles.append(str(answer.status))
                    continue
                if answer.status not in (200, 206):
                    raise Failed(f"{path}: {answer.status} {answer.read(500)!r} after {body.troubles}")
                skip = came if answer.status == 200 else 0  # not resumed but restarted
                if answer.status == 206 and not answer.headers["Content-Range"].startswith(f"bytes {came}-"):
                    raise Failed(f"{path}: asked from {came}, got {answer.headers['Content-Range']}")
                left = int(answer.headers["Content-Length"])
                whole = left + came - skip
                if size is not None and whole != size:
                    raise Failed(f"{path}: {whole} bytes promised in place of {size}")
                while left:
                    chunk, since = answer.read1(min(left, _CHUNK)), last or time.monotonic()
                    if not chunk:
                        raise ConnectionError("cut")
                    last = time.monotonic()
                    body.first = body.first or last - body.asked
                    body.silent = max(body.silent, last - since)
                    left -= len(chunk)
                    chunk, skip = chunk[skip:], max(0, skip - len(chunk))
                    came += len(chunk)
                    hashed.update(chunk)
                    if size is None:
                        kept.append(chunk)
                    if self._pace:
                        time.sleep(len(chunk) / self._pace)
                        last = time.monotonic()
                answer.close()
            except _BROKEN as error:
                self.close()
                body.troubles.append(str(error) if str(error) == "cut" else type(error).__name__)
                continue
            if f"sha256:{hashed.hexdigest()}" != digest:
                raise Failed(f"{path}: {came} bytes of another digest after {body.troubles}")
            body.seconds, body.content = time.monotonic() - body.asked, b"".join(kept)
            return body
        took = time.monotonic() - body.asked
        raise Failed(f"{path} from {self._endpoint[0]}:{self._endpoint[1]}: given up after {took:.1f} s: {', '.join(body.troubles)}")

    def _ask(self, path: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        headers |= {"Authorization": self._authorization, "Accept": ACCEPT}
        if self._connection is not None:
            # A closed idle connection does not count as an attempt: Go's client retries by itself.
            try:
                self._connection.request("GET", path, headers=headers)
                return self._connection.getresponse()
            except (ConnectionError, http.client.HTTPException):
                self.close()
        self._connection = http.client.HTTPConnection(*self._endpoint, timeout=self._dial)
        self._connection.connect()
        self._connection.sock.settimeout(self._answer)
        self._connection.request("GET", path, headers=headers)
        return self._connection.getresponse()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Load:
    """Threads that run one job after another during a block. `pull` gets the number of the job.

    The results are in `bodies`, and in `failures` as text.
    """

    def __init__(self, threads: int, pull: Callable[[int], Sequence[Body]], pause: float = 0) -> None:
        self.bodies: list[Body] = []
        self.failures: list[str] = []
        self.pulls = 0
        self._pull, self._pause = pull, pause
        self._number, self._ended = itertools.count(), threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(threads)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(timeout=120)
            if thread.is_alive():
                self.failures.append("a pull that does not end")

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                self.bodies += self._pull(next(self._number))
            except Failed as failure:
                self.failures.append(str(failure))
            except Exception:  # a bug in the test must not look like an idle client
                self.failures.append(traceback.format_exc())
            self.pulls += 1
            self._ended.wait(self._pause)

    def summary(self) -> str:
        """Returns a line with the number of pulls and retries."""
        troubles = Counter(trouble for body in self.bodies for trouble in body.troubles)
        slowest = max((body.seconds for body in self.bodies), default=0.0)
        again = ", ".join(f"{count} × {trouble}" for trouble, count in troubles.most_common()) or "nothing"
        return (
            f"{self.pulls} pulls, {len(self.bodies)} bodies, {len(self.failures)} failed pulls; tried again: {again}; "
            f"slowest body {slowest:.1f} s, longest silence in one {max((body.silent for body in self.bodies), default=0.0):.1f} s"
        )
