# SPDX-License-Identifier: GPL-3.0-or-later
"""Many concurrent clients: a few processes with one thread per client. Bodies are checked after all clients are done."""

from __future__ import annotations

import multiprocessing
import queue
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sandbox.steps import StepFailed

from . import containerd_client
from .content import Blob, Image
from .endpoint import Endpoint
from .sinks import Keep, Sink, Stream

_LEAD_SECONDS = 0.3  # time for all processes to get ready before the first client starts


@dataclass(frozen=True)
class Job:
    """The job of one client: pull an image, or only one blob of it, after `after` seconds."""

    endpoint: Endpoint
    image: Image
    blob: Blob | None = None
    after: float = 0.0
    keep: bool = True  # see containerd_client.pull
    retries: int = containerd_client.RETRIES


def _sinks(job: Job) -> dict[str, Sink]:
    """Returns preallocated memory for the bodies of a job."""
    blobs = [job.blob] if job.blob else [job.image.manifest, *job.image.blobs]
    return {blob.digest: Keep(blob.size) if job.keep else Stream() for blob in blobs}


def _work(jobs: Sequence[tuple[int, Job]], ready: Any, done: Any, start: Any, results: Any) -> None:
    pulls: list[tuple[int, containerd_client.Pull]] = []

    def run(number: int, job: Job, sinks: dict[str, Sink]) -> None:
        time.sleep(max(0.0, start.value + job.after - time.monotonic()))
        if job.blob:
            pull = containerd_client.get(job.endpoint, job.image, job.blob, sinks[job.blob.digest], retries=job.retries)
        else:
            pull = containerd_client.pull(job.endpoint, job.image, sinks=sinks)
        pulls.append((number, pull))

    threads = [threading.Thread(target=run, args=(number, job, _sinks(job)), daemon=True) for number, job in jobs]
    ready.wait()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(pulls) < len(jobs):
        sys.exit("a client failed: see above")
    done.wait()
    for _, pull in pulls:
        pull.check()
    results.put(pulls)


def run(jobs: Sequence[Job], processes: int = 2) -> list[containerd_client.Pull]:
    """Runs all jobs at the same time. Returns their checked pulls in the order of the jobs."""
    fork = multiprocessing.get_context("fork")
    groups = [group for n in range(processes) if (group := list(enumerate(jobs))[n::processes])]
    start, results = fork.Value("d", 0.0), fork.Queue()

    def lead() -> None:
        start.value = time.monotonic() + _LEAD_SECONDS

    ready, done = fork.Barrier(len(groups), action=lead), fork.Barrier(len(groups))
    workers = [fork.Process(target=_work, args=(group, ready, done, start, results), daemon=True) for group in groups]
    for worker in workers:
        worker.start()
    pulls: dict[int, containerd_client.Pull] = {}
    while len(pulls) < len(jobs):
        try:
            pulls |= dict(results.get(timeout=1))
        except queue.Empty:
            if any(worker.exitcode for worker in workers):
                raise StepFailed("a load process ended early") from None
    for worker in workers:
        worker.join()
    return [pulls[number] for number in range(len(jobs))]
