# SPDX-License-Identifier: GPL-3.0-or-later
"""`make demo`: runs site.yml on an empty cluster, then proves the main promises by measurements."""

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
    """A promise was not kept."""


def prove(holds: bool, text: str) -> None:
    """Print a measured result. Raises NotProved with it if the promise was not kept."""
    if not holds:
        raise NotProved(text)
    print(f"  ✓ {text}", flush=True)


def site(*arguments: str) -> tuple[int, float]:
    """Run site.yml and show the tasks that changed or took long. Returns the number of changed tasks and the seconds."""
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
    """Print a task if it changed, failed or took long."""
    if any(line.startswith(("fatal:", "failed:")) for line in lines):
        print("".join(lines), flush=True)
        return
    changed = any(line.startswith("changed:") for line in lines)
    if changed or seconds > 3:
        print(f"  {seconds:5.1f} s  {task}{' changed' if changed else ''}", flush=True)


def empty(cluster: Cluster) -> None:
    """Remove the cache and the image of an earlier demo."""
    cluster.kubectl("create", "namespace", "demo", check=False)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    forget(cluster)


def forget(cluster: Cluster) -> None:
    """Remove the demo's pods, and the image from all nodes."""

    def on(node: str) -> None:
        cluster.delete_pod(_pod(node))
        if _IMAGE in cluster.images(node):
            cluster.forget_image(_IMAGE, node)

    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        list(executor.map(on, cluster.nodes))


def _pod(node: str) -> str:
    return f"hello-{node}"


def start(cluster: Cluster, google: Google) -> tuple[dict[str, float], list[int]]:
    """Start a pod on all nodes at once. Returns the seconds by node, and the number of upstream GETs of each requested blob."""
    google.reset_counters()
    with ThreadPoolExecutor(len(cluster.nodes)) as executor:
        seconds = list(executor.map(lambda node: cluster.run_pod(_pod(node), _IMAGE, node=node), cluster.nodes))
    asked = [blob["blob_get"] for blob in google.counters()["blobs"].values() if "blob_get" in blob]
    return dict(zip(cluster.nodes, seconds, strict=True)), asked


def pulls(cluster: Cluster, google: Google) -> None:
    """Prove that the kubelet of every node pulls from the cache, and that a second pull causes no upstream request."""
    seconds, asked = start(cluster, google)
    for node, took in seconds.items():
        text = f"{cluster.runtime(node).replace('://', ' ')} on {node} pulled {_IMAGE}; its pod was running after {took:.1f} s"
        prove(cluster.pulled(_pod(node), _IMAGE), text)
    text = f"{len(seconds)} nodes pulled at the same time: {sum(asked)} upstream GETs for {len(asked)} blobs"
    prove(set(asked) == {1}, text)

    forget(cluster)
    seconds, asked = start(cluster, google)
    pulled = [cluster.pulled(_pod(node), _IMAGE) for node in seconds]
    times = ", ".join(f"{took:.1f}" for took in seconds.values())
    prove(all(pulled) and not asked, f"image removed from the nodes and pulled again in {times} s: {sum(asked)} upstream GETs for blobs")


def herd(sandbox: Sandbox, google: Google) -> None:
    """Prove that many clients of a new image share one fetch from a slow upstream."""
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
        f"{_HERD} clients pulled a new image from a slow upstream at the same time in {seconds:.1f} s, with correct digests: "
        f"{asked} blob requests to the cache, {fetched} to the upstream; {served / 1e6:.0f} MB served, "
        f"{came / 1e6:.1f} MB fetched, {100 * (1 - came / served):.0f} % saved",
    )


def credentials(cache: Cache) -> None:
    none, wrong, right = cache.status(None), cache.status((USER, "wrong")), cache.status((USER, cache.password))
    text = f"HTTP status without a credential: {none}; with a wrong password: {wrong}; with the right one: {right}"
    prove((none, wrong, right) == (401, 401, 200), text)


def grant(cache: Cache, google: Google) -> None:
    """Prove that a removed grant stops uncached pulls only, and that site.yml restores it."""
    google.revoke()
    refused, cached = cache.manifest("other", "1.0").status_code, cache.manifest("hello", "1.0").status_code
    prove(
        refused in (403, 404, 500) and cached == 200,
        f"reader grant removed; HTTP status of the next request for an uncached image: {refused}; for a cached one: {cached}",
    )
    changed, seconds = site()
    restored = cache.manifest("other", "1.0").status_code
    text = f"site.yml restored the grant (changed={changed}, {seconds:.0f} s); HTTP status for the uncached image: {restored}"
    prove(restored == 200, text)


def main() -> None:
    sandbox = Sandbox(os.environ["SANDBOX"])
    cluster, google = Cluster(sandbox), Google(sandbox)
    try:
        empty(cluster)
        changed, seconds = site()
        cache = Cache(sandbox)
        print("\nResults of this run:")
        ready = len(cluster.replicas())
        prove(ready == 2, f"site.yml on an empty cluster: {ready} replicas ready after {seconds:.0f} s (changed={changed})")
        pulls(cluster, google)
        herd(sandbox, google)
        credentials(cache)
        grant(cache, google)
        changed, seconds = site()
        prove(changed == 0, f"site.yml once more: changed={changed}, {seconds:.0f} s")
    except (NotProved, subprocess.CalledProcessError) as failure:
        shown = cluster.kubectl("get", "pods,events", "--all-namespaces", check=False)
        print(f"  ✗ {failure}\n{getattr(failure, 'stderr', None) or ''}\n\n{shown}", flush=True)
        sys.exit(1)
    print(f"""
The cluster keeps running. Look around:
  eval "$(make demo-env)"
  kubectl --namespace {NAMESPACE} get all
  curl --user "$REGISTRY_CACHE_USER:$REGISTRY_CACHE_PASSWORD" "$REGISTRY_CACHE_ENDPOINT/v2/{PROJECT}/{REPOSITORY}/hello/tags/list"
Run a playbook on it:
  python3 -m sandbox run {" ".join(_SITE)}
Use your own cluster and Google project ({UPSTREAM_HOST} or any other location), with your kubeconfig and Google credentials:
  cp -r inventory/example inventory/mine   # then fill in inventory/mine/group_vars
  ansible-playbook -i inventory/mine playbooks/site.yml
Remove everything:
  make demo-down""")


if __name__ == "__main__":
    main()
