# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo: site.yml on an empty cluster, then proofs of the main promises, measured in this run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from .client import NAMESPACE, USER, Cache, Cluster, Google
from .settings import NODE_PORT, PROJECT, REPOSITORY, ROOT, UPSTREAM_HOST, Sandbox

_IMAGE = f"localhost:{NODE_PORT}/{PROJECT}/{REPOSITORY}/hello:1.0"
_HERD = 20  # clients
_SITE = ("ansible-playbook", "--inventory", "sandbox/inventory", "playbooks/site.yml")


class NotProved(Exception):
    """A promise that did not hold."""


def prove(holds: bool, text: str) -> None:
    """Print one measured line, or stop with it."""
    if not holds:
        raise NotProved(text)
    print(f"  ✓ {text}", flush=True)


def site(*arguments: str) -> tuple[int, float]:
    """Run site.yml; shows what changed or took a while. Returns how many tasks changed and its seconds."""
    started, changed = time.monotonic(), -1
    print(f"\n$ {' '.join((*_SITE, *arguments))}", flush=True)
    with subprocess.Popen([*_SITE, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        task, since, lines = "start", started, []
        for line in process.stdout or ():
            if line.startswith(("TASK ", "PLAY RECAP")):
                _show(task, time.monotonic() - since, lines)
                task, since, lines = line.strip(" *\n").removeprefix("TASK "), time.monotonic(), []
            lines.append(line)
            if recap := re.search(r"changed=(\d+)", line):
                changed = int(recap[1])
    if process.returncode:
        print("".join(lines), flush=True)
        raise NotProved("site.yml failed")
    print(f"  {lines[1].strip()}", flush=True)
    return changed, time.monotonic() - started


def _show(task: str, seconds: float, lines: list[str]) -> None:
    """A task that changed, failed or took a while."""
    if any(line.startswith(("fatal:", "failed:")) for line in lines):
        print("".join(lines), flush=True)
        return
    changed = any(line.startswith("changed:") for line in lines)
    if changed or seconds > 3:
        print(f"  {seconds:5.1f} s  {task}{' changed' if changed else ''}", flush=True)


def empty(cluster: Cluster) -> None:
    """Begin without a cache and without the image, whatever an earlier demo left."""
    cluster.kubectl("create", "namespace", "demo", check=False)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    forget(cluster)


def forget(cluster: Cluster) -> None:
    """Remove the pods, and the image from the nodes."""

    def on(node: str) -> None:
        cluster.delete_pod(_pod(node))
        if _IMAGE in cluster.images(node):
            cluster.forget_image(_IMAGE, node)

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        list(executor.map(on, cluster.nodes))


def _pod(node: str) -> str:
    return f"hello-{node}"


def start(cluster: Cluster, google: Google) -> tuple[dict[str, float], list[int]]:
    """Start a pod on every node at once. Returns each node's seconds, and the upstream's GETs for each blob that it was asked for."""
    google.reset_counters()
    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        seconds = list(executor.map(lambda node: cluster.run_pod(_pod(node), _IMAGE, node=node), cluster.nodes))
    asked = [blob["blob_get"] for blob in google.counters()["blobs"].values() if "blob_get" in blob]
    return dict(zip(cluster.nodes, seconds, strict=True)), asked


def pulls(cluster: Cluster, google: Google) -> None:
    """A pod on every node, whose kubelet pulls from the cache; then again on nodes that hold nothing of the image."""
    seconds, asked = start(cluster, google)
    for node, took in seconds.items():
        text = f"{cluster.runtime(node).replace('://', ' ')} on {node} pulls {_IMAGE}: its pod is Running after {took:.1f} s"
        prove(cluster.pulled(_pod(node), _IMAGE), text)
    text = f"the {len(seconds)} nodes pulled at once: {sum(asked)} upstream GETs for {len(asked)} blobs"
    prove(set(asked) == {1}, text)

    forget(cluster)
    seconds, asked = start(cluster, google)
    pulled = [cluster.pulled(_pod(node), _IMAGE) for node in seconds]
    times = ", ".join(f"{took:.1f}" for took in seconds.values())
    prove(all(pulled) and not asked, f"nodes emptied of the image: pulled again in {times} s; upstream blob GETs: {sum(asked)}")


def herd(sandbox: Sandbox, google: Google) -> None:
    """Many clients at once, on an image that no replica has, from a slow upstream."""
    google.reset_counters()
    google.fault(f"{REPOSITORY}/hello/blobs/", count=100, bytes_per_second=400_000)
    started = time.monotonic()
    with ThreadPoolExecutor(_HERD) as executor:
        pulled = list(executor.map(lambda _: Cache(sandbox).pull("hello", "2.0"), range(_HERD)))
    seconds = time.monotonic() - started
    google.reset_faults()
    asked = sum(blobs for blobs, _, _ in pulled)
    served = sum(size for _, size, _ in pulled)
    counted = google.counters()["blobs"]
    fetched, came = sum(blob["blob_get"] for blob in counted.values()), sum(blob.get("blob_bytes", 0) for blob in counted.values())
    worst = max(blob["blob_get"] for blob in counted.values())
    prove(
        worst == 1,
        f"{_HERD} clients at once pull a new image from a slow upstream in {seconds:.1f} s, every digest right: {asked} blobs asked "
        f"of the cache, {fetched} of the upstream; {served / 1e6:.0f} MB served, {came / 1e6:.1f} MB fetched, "
        f"{100 * (1 - came / served):.0f}% saved",
    )


def credentials(cache: Cache) -> None:
    none, wrong, right = cache.status(None), cache.status((USER, "wrong")), cache.status((USER, cache.password))
    prove((none, wrong, right) == (401, 401, 200), f"no credential: {none}; wrong password: {wrong}; right one: {right}")


def grant(cache: Cache, google: Google) -> None:
    """Take the reader binding away and let site.yml put it back."""
    google.revoke()
    refused, cached = cache.manifest("other", "1.0").status_code, cache.manifest("hello", "1.0").status_code
    prove(
        refused in (403, 404, 500) and cached == 200,
        f"reader binding removed: an uncached image at the next request: {refused}; a cached one: {cached}",
    )
    changed, seconds = site()
    restored = cache.manifest("other", "1.0").status_code
    prove(restored == 200, f"site.yml again (changed={changed}, {seconds:.0f} s): the uncached image: {restored}")


def main() -> None:
    sandbox = Sandbox(os.environ["SANDBOX"])
    cluster, google = Cluster(sandbox), Google(sandbox)
    try:
        empty(cluster)
        changed, seconds = site()
        cache = Cache(sandbox)
        print("\nProved in this run:")
        ready = len(cluster.replicas())
        prove(ready == 2, f"site.yml: {ready} replicas ready after {seconds:.0f} s (changed={changed})")
        pulls(cluster, google)
        herd(sandbox, google)
        credentials(cache)
        grant(cache, google)
        changed, seconds = site()
        prove(changed == 0, f"site.yml a second time: changed={changed}, {seconds:.0f} s")
    except (NotProved, subprocess.CalledProcessError) as failure:
        shown = cluster.kubectl("get", "pods,events", "--all-namespaces", check=False)
        print(f"  ✗ {failure}\n{getattr(failure, 'stderr', None) or ''}\n\n{shown}", flush=True)
        sys.exit(1)
    print(f"""
The cluster stays up. To look around:
  eval "$(make demo-env)"
  kubectl --namespace {NAMESPACE} get all
  curl --user "$REGISTRY_CACHE_USER:$REGISTRY_CACHE_PASSWORD" "$REGISTRY_CACHE_ENDPOINT/v2/{PROJECT}/{REPOSITORY}/hello/tags/list"
To run a playbook on it:
  python3 -m sandbox run {" ".join(_SITE)}
For a real project, with your own kubeconfig and Google credentials ({UPSTREAM_HOST} or any other location):
  cp -r inventory/example inventory/mine   # and fill in inventory/mine/group_vars
  ansible-playbook -i inventory/mine playbooks/site.yml
To remove all of it: make demo-down""")


if __name__ == "__main__":
    main()
