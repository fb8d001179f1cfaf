#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_upstream_verify
short_description: Verify that each replica of a cache can pull from its upstream
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Runs the credential helper in each replica, and uses its credential to get a manifest directly from the upstream. Then it gets the same
    manifest through the replica.
  - Before that, it sends a TLS ClientHello to the replica. The answer must begin with C(HTTP/) within five seconds. containerd 1.6.28,
    1.7.7 or later with C(config_path) first tries HTTPS for C(localhost), and uses HTTP only after such an answer. The cache and the
    unmodified registry answer like this, but a proxy or sidecar in front of them may not.
  - A plain pull does not verify this. If its helper fails, the registry continues anonymously without an error. It also serves a cached
    tag if the grant is missing.
  - Retries until O(timeout), because changes at Google take some time to take effect. An error message contains the answer of Google's
    token service or of the upstream. The module reports errors that waiting cannot fix at once.
  - The module sends the requests to the upstream from its own host. The helper's short-lived credential reaches this host through the
    API server. It is neither returned nor logged.
options:
  namespace:
    description: Namespace of the replicas.
    type: str
    required: true
  container:
    description: Container of the credential helper and the registry.
    type: str
    default: registry
  helper:
    description: Command of the credential helper, as used by the registry.
    type: str
    default: docker-credential-gcr
  image:
    description: Image to get, with the upstream as its registry, such as V(us-central1-docker.pkg.dev/P/R/I:T).
    type: str
    required: true
  name:
    description:
      - Name of the cache. The module authenticates to the cache as the first user whose password is in Secret C(NAME-passwords), which
        M(pullthrough.registry_cache.cache_users) writes.
      - If not set, the module does not authenticate to the cache.
    type: str
  ca_path:
    description: Path of additional CA certificates in PEM format, to trust for the upstream.
    type: path
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.replicas
requirements:
  - requests
attributes:
  diff_mode:
    description: The module changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Verify that each replica can pull from the upstream
  pullthrough.registry_cache.cache_upstream_verify:
    namespace: registry-cache
    label_selector: app.kubernetes.io/name=registry-cache
    image: us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0
    name: registry-cache
"""

RETURN = r"""
replicas:
  description: Result for each replica.
  returned: success
  type: list
  elements: dict
  contains:
    pod:
      description: Pod of the replica.
      type: str
    digest:
      description: Digest of the manifest. The upstream and the replica return the same one.
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
    """Return the user name and password for the cache. Raise ClusterError."""
    if params["name"] is None:
        return {"cache_username": None, "cache_password": None}
    found = users.Passwords(client, cache_of(params)).prover()
    return {"cache_username": found["name"], "cache_password": found["password"]}


def verify(replicas: Replicas, pod: str, image: t.Any, params: dict[str, t.Any], ca_bundle: str | None) -> str:
    """Run all steps for one replica; return the digest. Raise TransientError or PermanentError, which name the step."""
    try:
        username, secret = replicas.run_helper(pod, params["helper"], image.registry)
    except (TransientError, PermanentError) as error:
        raise type(error)(f"{pod} gets no access token: {error}") from error
    try:
        expected = upstream.fetch_manifest(image.registry, image.repository, image.version, username, secret, ca_bundle)
    except upstream.NotFoundError as error:
        raise PermanentError(f"{image.registry} does not have the image: {error}") from error
    except upstream.UpstreamError as error:
        raise TransientError(f"{image.registry} returns no manifest for the credential of {pod}: {error}") from error
    path = f"/v2/{image.repository}/manifests/{image.version}"
    try:
        replicas.require_http(pod)
        status, body = replicas.fetch(pod, path, params["cache_username"], params["cache_password"])
    except (TransientError, PermanentError) as error:
        raise type(error)(f"{pod}: {error}") from error
    if status == 401:  # the kubelet updates a changed htpasswd file in the pod about a minute later
        raise TransientError(f"{pod} does not accept the credential of user {params['cache_username']}: {upstream.words(status, body)}")
    if status != 200:
        raise TransientError(f"the upstream has it, but {pod} answers {upstream.words(status, body)}")
    if upstream.digest(body) != expected:
        raise TransientError(f"{pod} serves {upstream.digest(body)}, but the upstream has {expected}")
    return expected


def verify_all(
    replicas: Replicas,
    image: t.Any,
    params: dict[str, t.Any],
    ca_bundle: str | None,
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> list[dict[str, str]]:
    """Verify each replica, with retries until the timeout; return a result for each one. Raise TransientError and PermanentError."""
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
    """Yield the path of a file with the default CA certificates and those of ca_path, or None without ca_path. Raise PermanentError."""
    if not ca_path:
        yield None
        return
    try:
        bundle = upstream.ca_bundle(pathlib.Path(ca_path).read_bytes())
    except OSError as error:
        raise PermanentError(
            f"ca_path: {error.filename} cannot be read ({error.strerror}). Name a readable file. Example: ca_path: /etc/ssl/company-ca.pem"
        ) from error
    with bundle:
        yield bundle.name


def prove(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Verify all replicas; return the result of the module. Raise ClusterError."""
    params = {**module.params, **credential(client, module.params)}
    image = image_reference.parse(params["image"])
    replicas = Replicas(client, params["namespace"], params["container"], params["port"])
    with trusted(params["ca_path"]) as ca_bundle:
        try:
            return {"changed": False, "replicas": verify_all(replicas, image, params, ca_bundle)}
        except TransientError as error:
            raise TransientError(f"{params['image']}, tried for {params['timeout']} s: {error}") from error
        # OSError: the environment names a file of CA certificates that does not exist.
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
