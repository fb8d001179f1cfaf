# SPDX-License-Identifier: GPL-3.0-or-later
"""Rows whose clients pull as containerd does: faults, outages, a restart, cold pulls, the limit; and module htpasswd."""

from __future__ import annotations

import base64
import contextlib
import http.client
import math
import os
import pathlib
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor

from sandbox.steps import StepFailed, say

from . import candidates, containerd_client, htpasswd, memory, parallel_pulls, usage
from .cache import cache
from .candidates import NGINX, OURS, RAW, V3, Candidate
from .containerd_client import Endpoint
from .content import MANIFEST, Image, Library
from .measure import FAR, GIB, MIB, Bench, alternate, content_gets, results, row, together
from .paced_upstream import Fault
from .report import Goal, Result


def _right(*pulls: containerd_client.Pull) -> None:
    """Refuse to measure what is wrong."""
    for pull in pulls:
        for transfer in pull.transfers:
            if not transfer.right:
                what = "wrong bytes" if transfer.wrong else transfer.error
                raise StepFailed(f"{transfer.blob.digest[:19]} of {transfer.blob.size} bytes: {what}")


def _pull(endpoint: Endpoint, image: Image) -> containerd_client.Pull:
    """One checked pull, with room for it made beforehand."""
    sinks = {blob.digest: containerd_client.Keep(blob.size) for blob in (image.manifest, *image.blobs)}
    pull = containerd_client.pull(endpoint, image, sinks=sinks)
    pull.check()
    _right(pull)
    return pull


@row("herd-error")
def herd_error(bench: Bench, clients: int = 20) -> list[Result]:
    """A herd on a blob that the upstream answers with 500 after a second."""
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


def _bytes_rate(candidate: Candidate, image: Image, clients: int, rounds: int) -> float:
    """MiB per second of clients that each take one blob a round, a different one where there are more."""
    blobs, received, seconds = image.layers, 0, 0.0
    for number in range(rounds):
        wanted = [blobs[(number * clients + n) % len(blobs)] for n in range(clients)]
        pulls = parallel_pulls.run([parallel_pulls.Job(candidate.endpoint, image, blob) for blob in wanted], processes=clients)
        _right(*pulls)
        received += sum(pull.bytes for pull in pulls)
        seconds += max(pull.ended for pull in pulls) - min(pull.started for pull in pulls)
    return received / seconds / MIB


def _copy(image: Image, library: Library, folder: pathlib.Path) -> pathlib.Path:
    """A copy of the layers that is on the disk and not in memory."""
    (folder / "blobs").mkdir(parents=True)
    for blob in image.layers:
        path = folder / "blobs" / blob.digest.removeprefix("sha256:")
        shutil.copyfile(library.blob(blob.digest), path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return folder


@row("warm-bytes-large")
def warm_bytes_large(
    bench: Bench, clients: int = 8, blobs: int = 12, size: int = 256 * MIB, limit: int = GIB
) -> list[Result]:
    """Warm blobs with more content than memory: each candidate in a cgroup of 1 GiB, its page cache included."""
    what = f"warm blobs, {clients} clients, {blobs * size / GIB:.0f} GiB through {limit / GIB:.0f} GiB of memory"
    goal = Goal("ratio", ">=", 0.9)
    bench.upstream.set()
    with memory.limit("ours", limit) as first, memory.limit("files", limit) as second:
        if first is None or second is None:
            return [Result(what, "MiB/s", RAW, None, None, goal, "no memory cgroup can be made here")]
        image = bench.image([size] * blobs)
        copy = _copy(image, bench.library, bench.new("copy"))
        with (
            cache(bench.new("large"), bench.upstream, size=2 * blobs * size, cgroup=first) as mine,
            candidates.files(bench.new("files"), copy, second) as files,
        ):
            for candidate in (mine, files):
                for blob in image.layers:
                    _right(*parallel_pulls.run([parallel_pulls.Job(candidate.endpoint, image, blob, keep=False)], processes=1))
            rounds = -(-2 * blobs // clients)  # each blob twice
            values = alternate({c.name: lambda c=c: _bytes_rate(c, image, clients, rounds) for c in (mine, files)}, "MiB/s")
        shutil.rmtree(copy)
        bench.library.forget(image)
    return results(what, "MiB/s", values, {RAW: goal})


@row("cold-pull")
def cold_pull(bench: Bench, size: int = 16 * MIB) -> list[Result]:
    """One client on an image that nobody has, against pulling it straight from upstream."""
    bench.upstream.set(**FAR)
    straight = "straight from upstream"

    def measure(endpoint: Endpoint) -> float:
        image = bench.image((size, size, size))
        try:
            return _pull(endpoint, image).seconds
        finally:
            bench.library.forget(image)

    with together(bench, OURS, V3) as running:
        endpoints = {**{name: one.endpoint for name, one in running.items()}, straight: bench.straight}
        values = alternate({name: lambda e=e: measure(e) for name, e in endpoints.items()}, "s")
    what = f"cold pull, one client, 3 × {size // MIB} MiB, 20 ms, 8 MB/s"
    return results(what, "s", values, {straight: Goal("ratio", "<=", 1.05), V3: None})


def _right_again(endpoint: Endpoint, image: Image, seconds: float = 35) -> float:
    """Seconds until a fresh pull of the only layer is right; endless if that takes longer than waited for."""
    started, blob = time.monotonic(), image.layers[0]
    while time.monotonic() - started < seconds:
        pull = containerd_client.get(endpoint, image, blob, containerd_client.Keep(blob.size), resume=False, retries=0)
        pull.check()
        if pull.transfers[0].right:
            return time.monotonic() - started
        time.sleep(0.1)
    return math.inf


def _faulty(bench: Bench, candidate: Candidate, kind: str, times: int, size: int) -> tuple[float, float]:
    """Wrong bodies that ended as complete, and the longest time until a fresh pull is right."""
    images = [bench.image((size,)) for _ in range(times)]
    bench.upstream.set(faults={image.layers[0].digest: Fault(kind, times=1) for image in images})
    wrong, longest = 0, 0.0
    for image in images:
        blob = image.layers[0]
        # What comes after a cut is asked for by Range; a corrupt answer is judged as it is.
        again = {"resume": kind == "cut", "retries": containerd_client.RETRIES if kind == "cut" else 0}
        pull = containerd_client.get(candidate.endpoint, image, blob, containerd_client.Keep(blob.size), **again)
        pull.check()
        wrong += pull.transfers[0].wrong
        longest = max(longest, _right_again(candidate.endpoint, image) if math.isfinite(longest) else 0)
    say(f"   {candidate.name}, {kind}: {wrong} of {times} wrong, right again within {longest:.2f} s")
    return wrong, longest


@row("faults")
def faults(bench: Bench, times: int = 20, size: int = 4 * MIB) -> list[Result]:
    """A cut that the client resumes by Range, and a corrupt byte."""
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
    """The answer to one request, and its seconds."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=180)
    basic = base64.b64encode(f"{endpoint.user}:{endpoint.password}".encode()).decode()
    started = time.monotonic()
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {basic}", "Accept": MANIFEST})
        answer = connection.getresponse()
        answer.read()
    finally:
        connection.close()
    return answer, time.monotonic() - started


@row("outage")
def outage(bench: Bench) -> list[Result]:
    """An upstream that hangs: a tag that is in the cache, what is not, and how soon the next tag is seen afterwards."""
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
            _pull(candidate.endpoint, cached)
            _asked(candidate.endpoint, tag)
            time.sleep(2)  # a tag counts as fresh for a moment
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
    """Whether a body came whole, to a client that reads so many bytes a second."""
    connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=180)
    basic = base64.b64encode(f"{endpoint.user}:{endpoint.password}".encode()).decode()
    try:
        connection.request("GET", path, headers={"Authorization": f"Basic {basic}"})
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
    """A replica that is told to end while clients read, and one that starts while the upstream hangs."""
    cut, seconds = {}, {}
    for name in (OURS, V3):
        bench.upstream.set()
        with together(bench, name) as running:
            candidate = running[name]
            image = bench.image((size,))
            path = f"/v2/{image.name}/blobs/{image.layers[0].digest}"
            _pull(candidate.endpoint, image)
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
        say(f"   {name}: {cut[name]} of {clients} transfers cut; serves {seconds[name]:.1f} s after its start")
    return [
        *results(f"told to end, {clients} transfers of 300 MB: cut", "", cut, {V3: Goal("ours", "<=", 0)}),
        *results("starts while the upstream hangs: cached content after", "s", seconds, {V3: Goal("ours", "<=", 10)}),
    ]


@row("limit")
def limit_of_disk(bench: Bench, limit: int = 256 * MIB, size: int = 8 * MIB) -> list[Result]:
    """Used blocks while five times the limit is pulled; the hottest image is asked for all the time."""
    used, refetched = {}, {}
    for name in (OURS, V3):
        bench.upstream.set()
        with together(bench, name, size=limit) as running, usage.peak(lambda c=running[name]: usage.at_once(c.blocks)) as highest:
            candidate = running[name]
            hot = bench.image((size, size))
            _pull(candidate.endpoint, hot)
            for number in range(5 * limit // (2 * size)):
                image = bench.image((size, size))
                _pull(candidate.endpoint, image)
                bench.library.forget(image)
                if number % 3 == 2:
                    _pull(candidate.endpoint, hot)
            before = content_gets(bench, hot)
            _pull(candidate.endpoint, hot)
            refetched[name] = content_gets(bench, hot) - before
        used[name] = highest[0] / limit
        say(f"   {name}: {used[name]:.3f} × the limit, hottest image fetched again: {refetched[name]:.2f}")
    return [
        *results("used disk after 5 × the limit, over the limit", "×", used, {V3: Goal("ours", "<=", 1)}),
        *results("after that, fetches per blob of the hottest image", "", refetched, {V3: Goal("ours", "<=", 0)}),
    ]


@row("htpasswd")
def htpasswd_users(bench: Bench, users: int = 1000, cost: int = 5, looped: int = 20) -> list[Result]:
    """Module htpasswd on many users that do not change."""
    made = htpasswd.make(bench.new("htpasswd"), users, cost)
    alone, peer = "bcrypt alone, all processors", f"community.general.htpasswd, a loop of {looped} extrapolated"
    process = alternate({OURS: lambda: htpasswd.module(made), alone: lambda: htpasswd.alone(made)}, "s")
    runs = {OURS: htpasswd.ours(made), "nothing": htpasswd.nothing(made), "loop": htpasswd.peer(made, looped)}
    task = alternate(runs, "s")
    task[peer] = task["nothing"] + (task["loop"] - task["nothing"]) * users / looped
    what = f"{users:,} users at bcrypt {cost}, none changes: "
    return [
        *results(what + "in the module's process", "s", process, {alone: Goal("ratio", "<=", 1.2)}),
        *results(what + "a run of ansible-playbook", "s", task, {peer: None}),
    ]
