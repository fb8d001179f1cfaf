#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: upstream_verify
short_description: Prove that every replica of a cache reaches its upstream with its own credential
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Runs the credential helper in every replica, asks the upstream itself for a manifest with what the helper returned, and
    fetches the same manifest through that replica.
  - A plain pull proves none of this. The registry goes on anonymously and silently when its helper fails, and answers a tag
    that it holds in spite of a broken grant.
  - Tries again until O(timeout), since Google's changes take a while to be known everywhere, and fails with the words of
    Google's token service or of the upstream.
  - The upstream is asked from where the module runs. The helper's short-lived credential comes there through the API server,
    and is neither returned nor logged.
options:
  namespace:
    description: The namespace of the replicas.
    type: str
    required: true
  label_selector:
    description: Selects the replicas' pods.
    type: str
    required: true
  container:
    description: The container that holds the helper and the registry.
    type: str
    default: registry
  port:
    description: The port of the registry in the pod.
    type: int
    default: 5000
  helper:
    description: The credential helper, as the registry runs it.
    type: str
    default: docker-credential-gcr
  image:
    description: The image to ask for, with its upstream, such as C(us-central1-docker.pkg.dev/P/R/I:T).
    type: str
    required: true
  cache_username:
    description: A user of the cache.
    type: str
  cache_password:
    description: That user's password.
    type: str
  ca_path:
    description: CA certificates (PEM) to trust for the upstream besides the usual ones.
    type: path
  timeout:
    description: How many seconds to try while the upstream refuses. What waiting does not mend fails at once.
    type: int
    default: 300
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
requirements:
  - kubernetes
  - requests
attributes:
  check_mode:
    description: Changes nothing, but needs running replicas, so that check mode skips it.
    support: none
  diff_mode:
    description: Changes nothing.
    support: none
"""

EXAMPLES = r"""
- name: Ask the upstream with every replica's credential
  pullthrough.registry_cache.upstream_verify:
    namespace: registry-cache
    label_selector: app.kubernetes.io/name=registry-cache
    image: us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0
    cache_username: nodes
    cache_password: "{{ vault_nodes_password }}"
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
import http.client
import json
import os
import tempfile
import time
import traceback
import typing as t
from base64 import b64encode

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubernetes.core.plugins.module_utils.args_common import AUTH_ARG_SPEC
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.core import AnsibleK8SModule
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException
from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _image_reference, _upstream

try:
    import certifi
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException
    from kubernetes.stream import portforward, stream
    from kubernetes.stream.ws_client import ERROR_CHANNEL
    from urllib3.exceptions import HTTPError
    from websocket import WebSocketException
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

_PAUSE_SECONDS = 2
_EXEC_SECONDS = 60


class Refused(Exception):
    """A step that did not succeed, and may after a while."""


class Hopeless(Exception):
    """A step that waiting does not mend."""


def _api_words(error: t.Any) -> str:
    """The API server's own message; where it refuses a stream, the client keeps that at the end of the reason."""
    try:
        return json.loads(error.body or error.reason.rpartition(" -+-+- ")[2])["message"]
    except (ValueError, LookupError, TypeError, AttributeError):
        return error.reason


class Replicas:
    """The pods of a cache, through the API server alone."""

    def __init__(self, client: t.Any, namespace: str, container: str, port: int) -> None:
        self._api, self._namespace, self._container, self._port = CoreV1Api(client), namespace, container, port

    def ready(self, label_selector: str) -> list[str]:
        """The names of the pods; raises Hopeless unless there are some and all are ready."""
        pods = self._api.list_namespaced_pod(self._namespace, label_selector=label_selector).items
        pods = [pod for pod in pods if pod.metadata.deletion_timestamp is None]
        if not pods:
            raise Hopeless(f"no pod in namespace {self._namespace} has the labels {label_selector}")
        conditions = {pod.metadata.name: pod.status.conditions or [] for pod in pods}
        waiting = sorted(
            name for name, all_of in conditions.items() if not any(c.type == "Ready" and c.status == "True" for c in all_of)
        )
        if waiting:
            raise Hopeless(f"not ready in namespace {self._namespace}: {', '.join(waiting)}")
        return sorted(conditions)

    def _open(self, opener: t.Any, method: t.Any, pod: str, **options: t.Any) -> t.Any:
        """A stream to a pod; raises Hopeless in the API server's words."""
        try:
            return opener(method, pod, self._namespace, **options)
        except ApiException as error:
            raise Hopeless(f"the API server opens no stream to it: {_api_words(error)}") from error

    def run_helper(self, pod: str, helper: str, host: str) -> tuple[str, str]:
        """The credential that the helper returns for a host: username and secret."""
        # The helper reads to the end of its input, which an exec stream cannot signal: a pipe in the pod does.
        command = ["sh", "-c", 'printf %s "$1" | exec "$2" get', "sh", host, helper]
        session = self._open(
            stream,
            self._api.connect_get_namespaced_pod_exec,
            pod,
            container=self._container,
            command=command,
            stdin=False,
            stdout=True,
            stderr=True,
            tty=False,
            _preload_content=False,
        )
        with contextlib.closing(session):
            try:
                session.run_forever(timeout=_EXEC_SECONDS)
            except WebSocketException as error:
                raise Refused(f"the stream to it broke: {error}") from error
            if session.is_open():
                raise Refused(f"{helper} gave no answer within {_EXEC_SECONDS} s")
            output, errors = session.read_stdout(timeout=0) or "", session.read_stderr(timeout=0) or ""
            status = session.read_channel(ERROR_CHANNEL)
        if not status:
            raise Refused("the stream to it broke before the helper ended")
        # Not session.returncode, which takes every failure for an exit code.
        status = json.loads(status)
        if status["status"] != "Success":
            unstarted = status.get("reason") != "NonZeroExitCode"
            if unstarted or status["details"]["causes"][0]["message"] in ("126", "127"):
                words = status["message"] if unstarted else errors.strip()
                raise Hopeless(f"{helper} cannot be run in container {self._container}: {words}")
            raise Refused((output + errors).strip())
        try:
            credential = json.loads(output)
            return credential["Username"], credential["Secret"]
        except (ValueError, LookupError, TypeError):
            raise Refused(f"{helper} returned no credential") from None

    def fetch_manifest(self, pod: str, path: str, username: str | None, password: str | None) -> tuple[int, bytes]:
        """GET a manifest from the registry of one pod; returns status and body."""
        method = self._api.connect_get_namespaced_pod_portforward
        forward = self._open(portforward, method, pod, ports=str(self._port))
        connection = http.client.HTTPConnection("localhost", self._port)
        connection.sock = forward.socket(self._port)
        connection.sock.settimeout(_EXEC_SECONDS)
        headers = {"Accept": _upstream.ACCEPT, "Connection": "close"}
        if username:
            headers["Authorization"] = "Basic " + b64encode(f"{username}:{password}".encode()).decode()
        try:
            connection.request("GET", path, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            # What the kubelet met at the port comes beside the stream.
            raise Refused(f"no answer from its registry ({forward.error(self._port) or error})") from error
        finally:
            connection.close()


def verify(replicas: Replicas, pod: str, image: t.Any, params: dict[str, t.Any], ca_bundle: str | None) -> str:
    """All three steps for one replica; returns the digest. Raises Refused or Hopeless with the step's name."""
    try:
        username, secret = replicas.run_helper(pod, params["helper"], image.registry)
    except (Refused, Hopeless) as error:
        raise type(error)(f"{pod} gets no access token: {error}") from error
    try:
        expected = _upstream.fetch_manifest(image.registry, image.repository, image.version, username, secret, ca_bundle)
    except _upstream.NotFoundError as error:
        raise Hopeless(f"{image.registry} does not have it: {error}") from error
    except _upstream.UpstreamError as error:
        raise Refused(f"{image.registry}, asked with the credential of {pod}: {error}") from error
    path = f"/v2/{image.repository}/manifests/{image.version}"
    try:
        status, body = replicas.fetch_manifest(pod, path, params["cache_username"], params["cache_password"])
    except (Refused, Hopeless) as error:
        raise type(error)(f"{pod}: {error}") from error
    if status == 401:  # a changed htpasswd reaches the pod about a minute after its Secret
        raise Refused(f"{pod} does not take cache_username and cache_password: {_upstream.words(status, body)}")
    if status != 200:
        raise Refused(f"the upstream has it, but {pod} answers {_upstream.words(status, body)}")
    if _upstream.digest(body) != expected:
        raise Refused(f"{pod} serves {_upstream.digest(body)}, the upstream {expected}")
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
            except Refused:
                if clock() + _PAUSE_SECONDS > deadline:
                    raise
                sleep(_PAUSE_SECONDS)
    return results


@contextlib.contextmanager
def trusted(ca_path: str | None) -> t.Iterator[str | None]:
    """The path of a file with the usual CA certificates and those of ca_path, or None to leave it to requests."""
    if not ca_path:
        yield None
        return
    usual = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or certifi.where()
    with tempfile.NamedTemporaryFile(suffix=".pem") as bundle:
        for source in (usual, ca_path):
            with open(source, "rb") as file:
                bundle.write(file.read() + b"\n")
        bundle.flush()
        yield bundle.name


def main() -> None:
    spec = {
        "namespace": {"type": "str", "required": True},
        "label_selector": {"type": "str", "required": True},
        "container": {"type": "str", "default": "registry"},
        "port": {"type": "int", "default": 5000},
        "helper": {"type": "str", "default": "docker-credential-gcr"},
        "image": {"type": "str", "required": True},
        "cache_username": {"type": "str"},
        "cache_password": {"type": "str", "no_log": True},
        "ca_path": {"type": "path"},
        "timeout": {"type": "int", "default": 300},
    }
    module = AnsibleK8SModule(
        module_class=AnsibleModule,
        argument_spec={**AUTH_ARG_SPEC, **spec},
        required_together=[("cache_username", "cache_password")],
        check_pyyaml=False,
    )
    if IMPORT_ERROR or not _upstream.AVAILABLE:
        module.fail_json(msg=missing_required_lib("kubernetes and requests"), exception=IMPORT_ERROR)
    params = module.params
    try:
        image = _image_reference.parse(params["image"])
    except ValueError as error:
        module.fail_json(msg=f"image: {error}")
    try:
        client = get_api_client(module).client.client
        replicas = Replicas(client, params["namespace"], params["container"], params["port"])
        with trusted(params["ca_path"]) as ca_bundle:
            results = verify_all(replicas, image, params, ca_bundle)
    except (Hopeless, CoreException) as error:
        module.fail_json(msg=f"{params['image']}: {error}")
    except Refused as error:
        module.fail_json(msg=f"{params['image']}, tried for {params['timeout']} s: {error}")
    except ApiException as error:
        module.fail_json(msg=f"{params['image']}: the API server refuses: {_api_words(error)}")
    except (HTTPError, OSError) as error:
        module.fail_json(msg=f"The cluster or a file gives no answer: {error}")
    module.exit_json(changed=False, replicas=results)


if __name__ == "__main__":
    main()
