# SPDX-License-Identifier: GPL-3.0-or-later
"""The last version with a front: its files, its images, and runs of its site.yml."""

from __future__ import annotations

import functools
import json
import pathlib
import subprocess
import sys

import pytest

from sandbox.client import NAMESPACE, Cluster, Google
from sandbox.from_source import tools
from sandbox.settings import ROOT, Sandbox
from tests.e2e.conftest import Site, ansible
from tests.e2e.site.test_site import IAM, PROVIDER, break_provider

COMMIT = "d3736af5c59b59d6a4280670f967dc0fe7fdb641"
# Per replica.
CONTAINERS = {"front", "registry", "credentials", "exporter", "log"}

# Runs in that version's tree, with its version of the sandbox.
_MAKE_IMAGES = """\
import json, sys
from sandbox import __main__, base_images, engine, front_images
from sandbox.settings import GO_IMAGE, Sandbox
from sandbox.steps import step

commit, builder = sys.argv[1:]
__main__._leave()
if not engine.is_stand_in(GO_IMAGE):
    builder = GO_IMAGE
elif not engine.has_image(builder, commit):
    base_images.GO_IMAGE = builder
    with step(f"base image {builder}", "the Go compiler") as log:
        base_images._make_go(log, commit)
front, *_ = front_images.ensure_front_images(Sandbox("demo"))  # which supports only the default
print(json.dumps({"builder": builder, "front": front}))
"""
# The role first tries to pull the builder. This name is on no public registry.
_BUILDER = f"localhost/registry-cache-sandbox/golang:{COMMIT[:12]}"


def unpack(folder: pathlib.Path) -> pathlib.Path:
    """Write the files of that version into a folder and return it.

    :raises pytest.fail.Exception: this clone does not have its commit.
    """
    if subprocess.run(["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True, check=False).returncode:
        pytest.fail(f"This clone lacks commit {COMMIT}. Fetch the whole history, for example: git fetch --unshallow")
    archive = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "--extract", "--directory", str(folder)], input=archive, check=True)
    return folder


def make_images(tree: pathlib.Path, sandbox: Sandbox) -> str:
    """Load the front's image into the nodes. Returns the image in which the role of that version compiles.

    Where Docker Hub cannot be reached, the sandbox makes both from packages. A build then has only the modules that are in the Go
    image made here, and those of this version lack what the older one compiles (docker/exporter). The older version's Go image
    must not take the same name: later builds of this version would miss their own modules. So it has a separate name, which the
    older role gets as `registry_cache_image_builder`, and the commit as its key. It is made once on a machine, nothing has to be
    restored afterwards, and an interrupted run leaves nothing wrong. The base image, registry, is the same for both.

    The older version's own sandbox code makes them, outside the environment of `sandbox run`, in which no package can be
    downloaded. Its whole `up` is not used, since that makes its base images under the common names.
    """
    command = [sys.executable, "-c", _MAKE_IMAGES, COMMIT, _BUILDER]
    made = subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    names = json.loads(made.stdout.splitlines()[-1])
    load = [str(tools.build("registry") / "kind"), "load", "docker-image", names["front"], "--name", sandbox.cluster]
    loaded = subprocess.run(load, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    return str(names["builder"])


def site(tree: pathlib.Path, builder: str) -> Site:
    """Runs that version's playbooks/site.yml with more arguments and variables."""
    builds_in = json.dumps({"registry_cache_image_builder": builder})
    return functools.partial(ansible, "playbooks/site.yml", "--extra-vars", builds_in, tree=tree)


def hand_over_provider(cluster: Cluster, google: Google) -> None:
    """Record the owner in the older version's provider, a manual step of the upgrade, without which this version refuses it.

    Its condition admits the service account in another form.
    """
    providers, _, name = PROVIDER.rpartition("/")
    found = google.call("GET", IAM, providers).get("workloadIdentityPoolProviders", [])
    if not any(provider["name"].endswith(f"/{name}") for provider in found):
        return
    uid = cluster.get("namespace", "kube-system")["metadata"]["uid"]
    condition = f"assertion.sub in ['system:serviceaccount:{NAMESPACE}:registry-cache']"
    break_provider(google, description=f"Made by pullthrough.registry_cache for cluster {uid}", attributeCondition=condition)
