# SPDX-License-Identifier: GPL-3.0-or-later
"""The Google emulator on free ports of loopback, with a private repository that the cache may read."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pathlib
import signal
import ssl
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from sandbox import direct, emulator, processes
from sandbox.settings import LOCATION, PROJECT, PROJECT_NUMBER, REPOSITORY, ROOT, UPSTREAM_HOST
from sandbox.steps import StepFailed

from . import ending

POOL, PROVIDER = "registry-cache", "trial"
# In the tokens that identity.py signs.
ISSUER = "https://kubernetes.default.svc.cluster.local"
SUBJECT = "system:serviceaccount:registry-cache:registry-cache"
NAME = f"{PROJECT}/{REPOSITORY}/hello"
TAGS = ("1.0", "2.0")  # the second is for users who try the cache afterwards
_POOLS = f"projects/{PROJECT}/locations/global/workloadIdentityPools"
_POOL_NAME = f"projects/{PROJECT_NUMBER}/locations/global/workloadIdentityPools/{POOL}"
AUDIENCE = f"https://iam.googleapis.com/{_POOL_NAME}/providers/{PROVIDER}"
_LAYER_BYTES = (6 << 20, 2 << 20)
_OPERATION_SECONDS = 20


class Google:
    """The emulator's processes. `home`: the folder of its files."""

    def __init__(self, home: pathlib.Path, python: pathlib.Path, crane: pathlib.Path) -> None:
        """Choose ports. Nothing runs before `start`.

        :param python: the interpreter of `environment.trial`.
        :param crane: go-containerregistry's client, which is also the registry that stores the images.
        """
        self.home, self._python, self._crane = home, python, crane
        port, self.proxy_port, self._registry_port = processes.free_ports(3)
        self._port, self.url = port, f"https://127.0.0.1:{port}"
        self.log = home / "google.log"

    def start(self) -> None:
        """Start the processes. `fill` waits until they answer."""
        self.home.mkdir()
        registry = f"127.0.0.1:{self._registry_port}"
        with ending.held():
            processes.start(self.home / "registry.pid", [str(self._crane), "registry", "serve", "--address", registry])
            emulator.start_process(self.home, self._python, "127.0.0.1", self._port, self.proxy_port, f"http://{registry}")

    def stop(self) -> None:
        """Stop the processes, also suspended ones."""
        self._signal(signal.SIGCONT)
        for name in ("google", "registry"):
            processes.stop(self.home / f"{name}.pid", 3)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Suspend the emulator during a block: the kernel accepts connections, and no request is answered."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        file = self.home / "google.pid"
        if processes.running(file):
            os.kill(int(file.read_text().split()[0]), number)

    @property
    def environment(self) -> dict[str, str]:
        """The variables of a process that uses this emulator: a proxy and a CA, as in a company's network."""
        proxy = f"http://127.0.0.1:{self.proxy_port}"
        return {
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
            "SSL_CERT_DIR": str(self.home),
        }

    def fill(self, folder: pathlib.Path) -> None:
        """Push images, create the repository, and grant the service account of a token in `folder` read access.

        :raises StepFailed: a step fails; the text has the message of Google or of the client.
        """
        emulator.wait_until_healthy(self.home, self.url)
        for tag in TAGS:
            self._push(folder, tag)
        identity = [str(self._python), "-m", "tools.trial.identity", str(folder), AUDIENCE]
        subprocess.run(identity, check=True, cwd=ROOT)
        self._federate((folder / "jwks.json").read_text())

    def _push(self, folder: pathlib.Path, tag: str) -> None:
        layers = [folder / f"layer-{number}.tar" for number in range(len(_LAYER_BYTES))]
        for layer, size in zip(layers, _LAYER_BYTES):
            with tarfile.open(layer, "w") as archive:
                info = tarfile.TarInfo(layer.stem)
                info.size = size
                archive.addfile(info, io.BytesIO(os.urandom(size)))
        files = [word for layer in layers for word in ("--new_layer", str(layer))]
        target = f"localhost:{self._registry_port}/{NAME}:{tag}"
        argv = [str(self._crane), "append", "--oci-empty-base", "--insecure", *files, "--new_tag", target]
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
        for layer in layers:
            layer.unlink()
        if result.returncode:
            raise StepFailed(f"crane could not push {target}: {result.stderr[-300:]}")

    def _federate(self, keys: str) -> None:
        repositories = f"projects/{PROJECT}/locations/{LOCATION}/repositories"
        provider = {
            "attributeMapping": {"google.subject": "assertion.sub"},
            "attributeCondition": f"assertion.sub == '{SUBJECT}'",
            "oidc": {"issuerUri": ISSUER, "jwksJson": keys},
        }
        grant = {
            "role": "roles/artifactregistry.reader",
            "members": [f"principal://iam.googleapis.com/{_POOL_NAME}/subject/{SUBJECT}"],
        }
        registry, iam = "artifactregistry.googleapis.com", "iam.googleapis.com"
        self._make(registry, f"{repositories}?repositoryId={REPOSITORY}", {"format": "DOCKER"})
        self._make(iam, f"{_POOLS}?workloadIdentityPoolId={POOL}", {})
        self._make(iam, f"{_POOLS}/{POOL}/providers?workloadIdentityPoolProviderId={PROVIDER}", provider)
        self.call("POST", registry, f"/v1/{repositories}/{REPOSITORY}:setIamPolicy", {"policy": {"bindings": [grant]}})

    def _make(self, host: str, path: str, body: Any) -> None:
        """Create a resource and wait for the operation."""
        operation, deadline = self.call("POST", host, f"/v1/{path}", body), time.monotonic() + _OPERATION_SECONDS
        while not operation.get("done"):
            if time.monotonic() > deadline:
                raise StepFailed(f"{host} did not finish {operation['name']} in {_OPERATION_SECONDS} s")
            time.sleep(0.1)
            operation = self.call("GET", host, f"/v1/{operation['name']}")

    def call(self, method: str, host: str, path: str, body: Any = None) -> Any:
        """Send a request to one of Google's hosts as the operator. Raises OSError on an error status."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Authorization": f"Bearer {(self.home / 'operator-token').read_text().strip()}",
                "Content-Type": "application/json",
                "Host": host,
            },
        )
        context = ssl.create_default_context(cafile=str(self.home / "ca.pem"))
        with direct.opener(context).open(request, timeout=10) as answer:
            return json.load(answer)

    @property
    def image(self) -> str:
        """Returns the reference of the image that is pulled."""
        return f"{UPSTREAM_HOST}/{NAME}:{TAGS[0]}"
