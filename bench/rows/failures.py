# SPDX-License-Identifier: GPL-3.0-or-later
"""Failures: errors, interruptions and corrupt bytes of the upstream, an outage, a restart of the cache."""

from __future__ import annotations

import contextlib
import http.client
import math
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from sandbox.steps import say

from .. import containerd_client, parallel_pulls
from ..candidates import NGINX, OURS, V3, Candidate
from ..content import MANIFEST, Image
from ..endpoint import Endpoint
from ..measure import MIB, Bench, alternate, pull_checked, results, row, together
from ..paced_upstream.state import Fault
from ..report import Goal, Result
from ..sinks import Keep


@row("herd-error")
def herd_error(bench: Bench, clients: int = 20) -> list[Result]:
    """A herd on a blob for which the upstream returns 500 after a second."""
    requests: dict[str, list[float]] = {}

    def measure(candidate: Candidate) -> float:
        image = bench.image((MIB,))
        bad = image.layers[0]
        bench.upstream.set(faults={bad.digest: Fault("error")})
        pulls = parallel_pulls.run([parallel_pulls.Job(candidate.endpoint, image, bad, retries=0) for _ in range(clients)], processes=1)
        counts = bench.upstream.counts()
        asked = sum(count for what, count in counts.items() if what.endswith(f" blob {bad.digest}"))
        requests.setdefault(candidate.name, []).append(asked)
        return max(pull.seconds for pull in pulls)

    with together(bench, OURS, V3, NGINX) as running:
        last = alternate({name: lambda c=one: measure(c) for name, one in running.items()}, "s")
    asked = {name: statistics.median(some) for name, some in requests.items()}
    what = f"herd of {clients} on a blob that is 500 after 1 s: "
    return [
        *results(what + "upstream requests", "", asked, {V3: Goal("ours", "<=", 1), NGINX: None}),
        *results(what + "last answer", "s", last, {V3: Goal("ours", "<=", 2), NGINX: None}),
    ]


def _right_again(endpoint: Endpoint, image: Image, seconds: float = 35) -> float:
    """Returns the time until a new pull of the only layer is right, in seconds, or infinity after a timeout."""
    started, blob = time.monotonic(), image.layers[0]
    while time.monotonic() - started < seconds:
        pull = containerd_client.get(endpoint, image, blob, Keep(blob.size), resume=False, retries=0)
        pull.check()
        if pull.transfers[0].right:
            return time.monotonic() - started
        time.sleep(0.1)
    return math.inf


def _faulty(bench: Bench, candidate: Candidate, kind: str, times: int, size: int) -> tuple[float, float]:
    """Returns the number of wrong bodies that ended without an error, and the maximum time until a new pull is right."""
    images = [bench.image((size,)) for _ in range(times)]
    bench.upstream.set(faults={image.layers[0].digest: Fault(kind, times=1) for image in images})
    wrong, longest = 0, 0.0
    for image in images:
        blob = image.layers[0]
        # Resume interrupted transfers with Range requests, but not corrupt ones.
        again = {"resume": kind == "cut", "retries": containerd_client.RETRIES if kind == "cut" else 0}
        pull = containerd_client.get(candidate.endpoint, image, blob, Keep(blob.size), **again)
        pull.check()
        wrong += pull.transfers[0].wrong
        longest = max(longest, _right_again(candidate.endpoint, image) if math.isfinite(longest) else 0)
    say(f"   {candidate.name}, {kind}: {wrong} of {times} wrong, right again within {longest:.2f} s")
    return wrong, longest


@row("faults")
def faults(bench: Bench, times: int = 20, size: int = 4 * MIB) -> list[Result]:
    """An interruption that the client resumes with a Range request, and a corrupt byte."""
    table = []
    for kind, text in (("cut", "cut in the middle, resumed by Range"), ("corrupt", "one corrupt byte")):
        with together(bench, OURS, V3, NGINX) as running:
            found = {name: _faulty(bench, one, kind, times, size) for name, one in running.items()}
        wrong = {name: value for name, (value, _) in found.items()}
        again = {name: value for name, (_, value) in found.items()}
        what = f"{text}, {times} blobs: "
        table += results(what + "wrong bodies ended as complete", "", wrong, {V3: Goal("ours", "<=", 0), NGINX: None})
        table += results(what + "fresh pull right within", "s", again, {V3: Goal("ours", "<=", 30), NGINX: None})
    return table


def _asked(endpoint: Endpoint, path: str) -> tuple[http.client.HTTPResponse, float]:
    """Returns the response to one request, and its time in seconds."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=180)
    started = time.monotonic()
    try:
        connection.request("GET", path, headers={"Authorization": endpoint.authorization, "Accept": MANIFEST})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer, time.monotonic() - started


@row("outage")
def outage(bench: Bench) -> list[Result]:
    """An upstream that hangs: cached and uncached content, and the time until a new tag is served after recovery."""
    values: dict[str, dict[str, float]] = {}

    def note(what: str, candidate: Candidate, path: str, *right: int) -> None:
        for turn in ("first", "next"):
            answer, seconds = _asked(candidate.endpoint, path)
            say(f"   {candidate.name}: {what}, {turn}: {answer.status} after {seconds:.3f} s")
            honest = answer.status in right and (answer.status == 200 or answer.headers["Retry-After"])
            values.setdefault(f"{what}: {turn}", {})[candidate.name] = seconds if honest else math.inf

    for name in (OURS, V3):
        bench.upstream.set()
        with together(bench, name) as running:
            candidate = running[name]
            cached, other, third = (bench.image((MIB,)) for _ in range(3))
            tag = f"/v2/{cached.name}/manifests/{bench.library.tag}"
            pull_checked(candidate.endpoint, cached)
            _asked(candidate.endpoint, tag)
            time.sleep(2)  # wait until the tag is no longer fresh
            bench.upstream.set(latency=600)
            note("cached tag", candidate, tag, 200)
            note("uncached tag", candidate, f"/v2/{other.name}/manifests/{bench.library.tag}", 502, 503, 504)
            note("uncached blob", candidate, f"/v2/{third.name}/blobs/{third.layers[0].digest}", 502, 503, 504)
            bench.library.retag(cached, other)
            bench.upstream.set()
            recovered, limit = time.monotonic(), 120
            while _asked(candidate.endpoint, tag)[0].headers["Docker-Content-Digest"] != other.manifest.digest:
                if time.monotonic() - recovered > limit:
                    break
                time.sleep(0.2)
            values.setdefault("a new tag is served after recovery", {})[candidate.name] = time.monotonic() - recovered
    bounds = {"cached tag: first": 2.5, "uncached tag: first": 10, "uncached blob: first": 10}
    bounds["a new tag is served after recovery"] = 5
    return [
        result
        for what, measured in values.items()
        for result in results(f"upstream hangs, {what}", "s", measured, {V3: Goal("ours", "<=", bounds.get(what, 0.05))})
    ]


def _read_slowly(endpoint: Endpoint, path: str, rate: int) -> bool:
    """Returns whether a client that reads `rate` bytes per second receives the whole body."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=180)
    try:
        connection.request("GET", path, headers={"Authorization": endpoint.authorization})
        answer = connection.getresponse()
        while chunk := answer.read(MIB):
            time.sleep(len(chunk) / rate)
        return answer.status == 200 and answer.length == 0
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


@row("restart")
def restart(bench: Bench, clients: int = 4, size: int = 300_000_000, most: float = 60) -> list[Result]:
    """A replica that is terminated while clients read, and one that starts while the upstream hangs."""
    cut, seconds = {}, {}
    for name in (OURS, V3):
        bench.upstream.set()
        with together(bench, name) as running:
            candidate = running[name]
            image = bench.image((size,))
            path = f"/v2/{image.name}/blobs/{image.layers[0].digest}"
            pull_checked(candidate.endpoint, image)
            with ThreadPoolExecutor(clients) as executor:
                reads = [executor.submit(_read_slowly, candidate.endpoint, path, size // 8) for _ in range(clients)]
                time.sleep(2)
                candidate.end(most)
                cut[name] = sum(not read.result() for read in reads)
            bench.upstream.set(latency=600)
            candidate.begin_again()
            begun, served = time.monotonic(), False
            while not served and time.monotonic() - begun < most:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    served = _asked(candidate.endpoint, path)[0].status == 200
                time.sleep(0.1)
            seconds[name] = time.monotonic() - begun if served else math.inf
        bench.library.forget(image)
        say(f"   {name}: {cut[name]} of {clients} transfers cut; ready {seconds[name]:.1f} s after the start")
    return [
        *results(f"told to end, {clients} transfers of 300 MB: cut", "", cut, {V3: Goal("ours", "<=", 0)}),
        *results("starts while the upstream hangs: cached content after", "s", seconds, {V3: Goal("ours", "<=", 10)}),
    ]
