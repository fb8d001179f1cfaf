#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_upstream_verify
short_description: Prove that every replica of a cache reaches its upstream with its own credential
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Runs the credential helper in every replica, asks the upstream itself for a manifest with what the helper returned, and
    fetches the same manifest through that replica.
  - Before that it sends a TLS ClientHello to the replica, whose answer must begin with C(HTTP/) within five seconds. containerd
    1.6.28, 1.7.7 or later with C(config_path) tries HTTPS first at C(localhost), and pulls without TLS only after such an answer. It
    is what the cache and the unmodified registry send; a proxy or a sidecar in front of them may send none.
  - A plain pull proves none of this. When its helper fails, the registry continues anonymously without an error, and it serves a cached
    tag even if the grant is missing.
  - Retries until O(timeout), since Google's changes take a while to take effect everywhere. The error message has the words of Google's
    token service or of the upstream. Errors that waiting cannot fix are reported at once.
  - The upstream is asked from where the module runs. The helper's short-lived credential comes there through the API server,
    and is neither returned nor logged.
options:
  namespace:
    description: The namespace of the replicas.
    type: str
    required: true
  container:
    description: The container that holds the helper and the registry.
    type: str
    default: registry
  helper:
    description: The credential helper, as the registry runs it.
    type: str
    default: docker-credential-gcr
  image:
    description: The image to ask for, with its upstream, such as C(us-central1-docker.pkg.dev/P/R/I:T).
    type: str
    required: true
  name:
    description:
      - The name of the cache. It is asked with the first user whose password is in Secret C(NAME-passwords), which
        M(pullthrough.registry_cache.cache_users) writes.
      - If not set, the cache is asked without a credential.
    type: str
  ca_path:
    description: CA certificates (PEM) to trust for the upstream besides the usual ones.
    type: path
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.replicas
requirements:
  - requests
attributes:
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Ask the upstream with every replica's credential
  pullthrough.registry_cache.cache_upstream_verify:
    namespace: registry-cache
    label_selector: app.kubernetes.io/name=registry-cache
    image: us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0
    name: registry-cache
"""

RETURN = r"""
replicas:
  description: What each replica got.
  returned: success
  type: list
  elements: dict
  contains:
    pod:
      description: The replica's pod.
      type: str
    digest:
      description: The digest of the manifest, the same from the upstream and through the replica.
      type: str
  sample:
    - pod: registry-cache-0
      digest: sha256:b5b2b2c507a0944348e0303114d8d93aaaa081732b86451d9bce1f432a537bc7
"""

import contextlib
import pathlib
import time
import typing as t

from ansible.module_utils.basic import missing_required_lib
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as image_reference
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import upstream
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import PermanentError, TransientError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.replicas import PAUSE_SECONDS, Replicas
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import REPLICA_OPTIONS, cluster_module, run


def credential(client: Client, params: dict[str, t.Any]) -> dict[str, str | None]:
    """The user and password that the cache is asked with. Raises ClusterError."""
    if params["name"] is None:
        return {"cache_username": None, "cache_password": None}
    found = users.Passwords(client, cache_of(params)).prover()
    return {"cache_username": found["name"], "cache_password": found["password"]}


def verify(replicas: Replicas, pod: str, image: t.Any, params: dict[str, t.Any], ca_bundle: str | None) -> str:
    """Run all steps for one replica; returns the digest. Raises TransientError or PermanentError with the step's name."""
    try:
        username, secret = replicas.run_helper(pod, params["helper"], image.registry)
    except (TransientError, PermanentError) as error:
        raise type(error)(f"{pod} gets no access token: {error}") from error
    try:
        expected = upstream.fetch_manifest(image.registry, image.repository, image.version, username, secret, ca_bundle)
    except upstream.NotFoundError as error:
        raise PermanentError(f"{image.registry} does not have it: {error}") from error
    except upstream.UpstreamError as error:
        raise TransientError(f"{image.registry}, asked with the credential of {pod}: {error}") from error
    path = f"/v2/{image.repository}/manifests/{image.version}"
    try:
        replicas.require_http(pod)
        status, body = replicas.fetch(pod, path, params["cache_username"], params["cache_password"])
    except (TransientError, PermanentError) as error:
        raise type(error)(f"{pod}: {error}") from error
    if status == 401:  # a changed htpasswd reaches the pod about a minute after its Secret
        raise TransientError(f"{pod} does not take the credential of user {params['cache_username']}: {upstream.words(status, body)}")
    if status != 200:
        raise TransientError(f"the upstream has it, but {pod} answers {upstream.words(status, body)}")
    if upstream.digest(body) != expected:
        raise TransientError(f"{pod} serves {upstream.digest(body)}, the upstream {expected}")
    return expected


def verify_all(
    replicas: Replicas,
    image: t.Any,
    params: dict[str, t.Any],
    ca_bundle: str | None,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> list[dict[str, str]]:
    """Every replica, each tried until the time is over."""
    deadline = clock() + params["timeout"]
    results = []
    for pod in replicas.ready(params["label_selector"]):
        while True:
            try:
                results.append({"pod": pod, "digest": verify(replicas, pod, image, params, ca_bundle)})
                break
            except TransientError:
                if clock() + PAUSE_SECONDS > deadline:
                    raise
                sleep(PAUSE_SECONDS)
    return results


@contextlib.contextmanager
def trusted(ca_path: str | None) -> t.Iterator[str | None]:
    """The path of a file with the usual CA certificates and those of ca_path, or None to leave it to requests. Raises PermanentError."""
    if not ca_path:
        yield None
        return
    try:
        bundle = upstream.ca_bundle(pathlib.Path(ca_path).read_bytes())
    except OSError as error:
        raise PermanentError(
            f"ca_path: {error.filename} cannot be read ({error.strerror}). Example: ca_path: /etc/ssl/company-ca.pem"
        ) from error
    with bundle:
        yield bundle.name


def prove(module: t.Any, client: Client) -> dict[str, t.Any]:
    """The result. Raises ClusterError."""
    params = {**module.params, **credential(client, module.params)}
    image = image_reference.parse(params["image"])
    replicas = Replicas(client, params["namespace"], params["container"], params["port"])
    with trusted(params["ca_path"]) as ca_bundle:
        try:
            return {"changed": False, "replicas": verify_all(replicas, image, params, ca_bundle)}
        except TransientError as error:
            raise TransientError(f"{params['image']}, tried for {params['timeout']} s: {error}") from error
        # OSError: no file of CA certificates where the environment names one.
        except (PermanentError, OSError) as error:
            raise PermanentError(f"{params['image']}: {error}") from error


def main() -> None:
    spec = {
        **REPLICA_OPTIONS,
        "namespace": {"type": "str", "required": True},
        "container": {"type": "str", "default": "registry"},
        "helper": {"type": "str", "default": "docker-credential-gcr"},
        "image": {"type": "str", "required": True},
        "name": {"type": "str"},
        "ca_path": {"type": "path"},
    }
    module = cluster_module(spec, supports_check_mode=False)
    if upstream.IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("requests"), exception=upstream.IMPORT_ERROR)
    try:
        image_reference.parse(module.params["image"])
    except ValueError as error:
        module.fail_json(msg=f"image: {error}")
    run(module, prove)


if __name__ == "__main__":
    main()
