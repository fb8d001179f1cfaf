# SPDX-License-Identifier: GPL-3.0-or-later
"""What demo and tests do to a running sandbox: ask the cache, the stand-in, the cluster and its nodes."""

from __future__ import annotations

import json
import ssl
import subprocess
import time
from collections.abc import Iterable
from typing import Any

import httpx

from . import cluster
from .settings import LOCATION, PROJECT, REPOSITORY, Sandbox

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
NAMESPACE, USER = "registry-cache", "nodes"
_REPOSITORY_URL = f"/v1/projects/{PROJECT}/locations/{LOCATION}/repositories/{REPOSITORY}"


class Cache:
    """The cache on its NodePort, as this machine reaches it."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.password = sandbox.password.read_text()
        self._client = httpx.Client(base_url=cluster.endpoint(sandbox), trust_env=False, timeout=30)

    def manifest(self, name: str, reference: str, auth: tuple[str, str] | None = None) -> httpx.Response:
        """GET a manifest; with the cache's own credential unless another is given."""
        path = f"/v2/{PROJECT}/{REPOSITORY}/{name}/manifests/{reference}"
        return self._client.get(path, headers={"Accept": ACCEPT}, auth=auth or (USER, self.password))

    def status(self, auth: tuple[str, str] | None) -> int:
        """The status of `GET /v2/` with a credential or with none."""
        return self._client.get("/v2/", auth=auth).status_code


class Google:
    """The stand-in's APIs and counters as its operator."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._client = httpx.Client(
            base_url=f"https://{sandbox.gateway}",
            headers={"Authorization": f"Bearer {sandbox.operator_token.read_text().strip()}"},
            verify=ssl.create_default_context(cafile=str(sandbox.ca)),
            trust_env=False,
            timeout=30,
        )

    def call(self, method: str, host: str, path: str, body: Any = None, **params: str) -> Any:
        """One request to one of Google's hosts; raises on an error status."""
        answer = self._client.request(method, path, headers={"Host": host}, json=body, params=params)
        answer.raise_for_status()
        return answer.json()

    def exchange(self, audience: str, token: str) -> httpx.Response:
        """STS's answer to a subject token, whatever it is."""
        form = {
            "audience": audience,
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "subject_token": token,
        }
        return self._client.post("/v1/token", data=form, headers={"Host": "sts.googleapis.com", "Authorization": ""})

    def counters(self) -> dict[str, int]:
        """Requests of clients other than the operator, by kind."""
        return self._client.get("/standin/counters").json()

    def reset_counters(self) -> None:
        self._client.post("/standin/counters/reset").raise_for_status()

    def policy(self) -> dict[str, Any]:
        """The IAM policy of the private repository."""
        host = "artifactregistry.googleapis.com"
        return self.call("GET", host, f"{_REPOSITORY_URL}:getIamPolicy", **{"options.requestedPolicyVersion": "3"})

    def set_policy(self, policy: dict[str, Any]) -> None:
        host = "artifactregistry.googleapis.com"
        self.call("POST", host, f"{_REPOSITORY_URL}:setIamPolicy", {"policy": policy})

    def revoke(self) -> dict[str, Any]:
        """Remove every binding of the repository; returns the policy as it was."""
        before = self.policy()
        self.set_policy({**before, "bindings": []})
        return before


class Cluster:
    """kubectl and the nodes' containerd."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.node = cluster.nodes(sandbox)[0]
        self._kubectl = [str(cluster.kubectl(sandbox)), "--kubeconfig", str(sandbox.kubeconfig)]

    def kubectl(self, *words: str, stdin: str | None = None, check: bool = True) -> str:
        return subprocess.run([*self._kubectl, *words], input=stdin, capture_output=True, text=True, check=check).stdout

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "--output", "json"))

    def replicas(self) -> dict[str, str]:
        """The cache's pods: name to address."""
        pods = self.get("pods", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=registry-cache")
        return {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in pods["items"]}

    def on_node(self, *words: str, stdin: str | None = None) -> str:
        command = ["docker", "exec", "--interactive", self.node, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def fetch(self, address: str, password: str, path: str, discard: bool = False) -> str:
        """GET from one replica, from its node; the credential goes by standard input."""
        config = [
            f'url = "http://{address}:5000{path}"',
            f'user = "{USER}:{password}"',
            f'header = "Accept: {ACCEPT}"',
            *(("output = /dev/null",) if discard else ()),
            "fail",
            "silent",
            "show-error",
        ]
        return self.on_node("curl", "--config", "-", stdin="\n".join(config))

    def warm(self, password: str, name: str, tag: str) -> None:
        """Pull an image through each replica itself, so that every replica holds it."""
        base = f"/v2/{PROJECT}/{REPOSITORY}/{name}"
        for address in self.replicas().values():
            manifest = json.loads(self.fetch(address, password, f"{base}/manifests/{tag}"))
            for blob in (manifest["config"], *manifest["layers"]):
                self.fetch(address, password, f"{base}/blobs/{blob['digest']}", discard=True)

    def forget_image(self, image: str) -> None:
        """Empty the node's containerd of an image and of the content that only it holds."""
        self.on_node("ctr", "--namespace", "k8s.io", "images", "rm", "--sync", *self._names_of(image))
        if image in self.images():
            raise AssertionError(f"{image} is still on {self.node}")

    def images(self) -> list[str]:
        """The names of all images that the node's containerd holds."""
        return self.on_node("ctr", "--namespace", "k8s.io", "images", "ls", "--quiet").split()

    def _names_of(self, image: str) -> Iterable[str]:
        """An image is listed by reference, by digest and by id."""
        lines = self.on_node("ctr", "--namespace", "k8s.io", "images", "ls").splitlines()
        digest = next(line.split()[2] for line in lines if line.startswith(f"{image} "))
        return [line.split()[0] for line in lines if digest in line]

    def run_pod(self, name: str, image: str, namespace: str = "demo") -> float:
        """Run a pod with the pull secret until it is Running; returns the seconds that took."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 0,
                "imagePullSecrets": [{"name": "registry-cache"}],
                "containers": [{"name": "main", "image": image}],
            },
        }
        started = time.monotonic()
        self.kubectl("apply", "--namespace", namespace, "--filename", "-", stdin=json.dumps(pod))
        self.kubectl("wait", "--namespace", namespace, f"pod/{name}", "--for=condition=Ready", "--timeout=120s")
        return time.monotonic() - started

    def pulled(self, name: str, image: str, namespace: str = "demo") -> bool:
        """Whether the kubelet says that it pulled the image for this very pod."""
        uid = self.get("pod", name, "--namespace", namespace)["metadata"]["uid"]
        selector = f"involvedObject.uid={uid},reason=Pulled"
        events = self.get("events", "--namespace", namespace, "--field-selector", selector)["items"]
        return any(f'Successfully pulled image "{image}"' in event["message"] for event in events)

    def delete_pod(self, name: str, namespace: str = "demo") -> None:
        self.kubectl("delete", "--namespace", namespace, "pod", name, "--ignore-not-found", "--wait")
