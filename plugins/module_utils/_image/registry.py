# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gets the digest of a tag from a registry, with the credential that docker and podman would use
(https://distribution.github.io/distribution/spec/auth/token/, https://github.com/docker/docker-credential-helpers).

Private to this collection.
"""

from __future__ import annotations

# run_command has no timeout, but a helper may wait for a terminal.
# pylint: disable=ansible-bad-function
import base64
import json
import os
import re
import subprocess
import typing as t

from . import upstream
from .errors import DeniedError, RegistryError

try:
    import requests
except ImportError:
    requests = None

# Timeouts in seconds: to connect, and to wait for an answer.
_TIMEOUT = (10, 30)
_HELPER_SECONDS = 60
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')
_HUB_KEY = "https://index.docker.io/v1/"
# User name that a credential helper returns for an identity token.
_IDENTITY_USER = "<token>"


class Credential(t.NamedTuple):
    """A credential for a registry: a password, or an identity token."""

    username: str
    password: str
    identity_token: str = ""


def auth_files(environ: t.Mapping[str, str]) -> list[str]:
    """Return the paths of podman's and docker's credential files, in the order in which they are searched."""
    home = os.path.expanduser("~")
    config = environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    files = [
        environ.get("REGISTRY_AUTH_FILE"),
        environ.get("XDG_RUNTIME_DIR") and os.path.join(environ["XDG_RUNTIME_DIR"], "containers", "auth.json"),
        os.path.join(config, "containers", "auth.json"),
        os.path.join(environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"),
    ]
    return [file for file in files if file]


def find_credential(registry: str, repository: str, files: t.Sequence[str]) -> Credential | None:
    """Return the credential for a repository from the first credential file that has one, or None.

    :raises RegistryError: if a file cannot be read, or a credential helper fails.
    """
    for file in files:
        try:
            with open(file, encoding="utf-8") as opened:
                content = json.load(opened)
            found = _of_file(registry, repository, content)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise RegistryError(f"the credential file {file} cannot be read ({error})") from error
        if found:
            return found
    return None


def _of_file(registry: str, repository: str, content: t.Any) -> Credential | None:
    server = _HUB_KEY if registry == "docker.io" else registry
    helper = content.get("credHelpers", {}).get(registry) or content.get("credsStore")
    if helper and (found := _of_helper(helper, server)):
        return found
    auths = {re.sub(r"^https?://|/(v[12]/?)?$", "", key): entry for key, entry in content.get("auths", {}).items()}
    if registry == "docker.io" and "index.docker.io" in auths:
        auths.setdefault("docker.io", auths["index.docker.io"])
    # podman's files may have entries for parts of a registry.
    parts = [registry, *repository.split("/")]
    for length in range(len(parts), 0, -1):
        entry = auths.get("/".join(parts[:length])) or {}
        if entry.get("auth") or entry.get("identitytoken"):
            username, _colon, password = base64.b64decode(entry.get("auth", ""), validate=True).decode().partition(":")
            return Credential(username, password.strip("\0"), entry.get("identitytoken", ""))
    return None


def _of_helper(name: str, server: str) -> Credential | None:
    program = f"docker-credential-{name}"
    try:
        result = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, check=False, timeout=_HELPER_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RegistryError(f"the credential helper {program} cannot be run ({error})") from error
    if result.returncode:
        said = (result.stdout or result.stderr).strip()
        if "not found" in said:
            return None
        raise RegistryError(f"the credential helper {program} failed for {server} ({said[:300]})")
    try:
        answer = json.loads(result.stdout)
        username, secret = answer["Username"], answer["Secret"]
    except (ValueError, LookupError, TypeError) as error:
        raise RegistryError(f"the credential helper {program} returned no credential for {server}") from error
    if username == _IDENTITY_USER:
        return Credential("", "", secret)
    return Credential(username, secret) if secret else None


def auth_file(registry: str, credential: Credential) -> dict[str, t.Any]:
    """Return the content of a credential file with one credential."""
    entry = {"auth": base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()}
    if credential.identity_token:
        entry["identitytoken"] = credential.identity_token
    return {"auths": {_HUB_KEY if registry == "docker.io" else registry: entry}}


class Repository:
    """A repository of a registry.

    :param actions: actions for which a token is requested: C(pull), or C(pull,push).
    :param ca_bundle: path of the CA certificates to trust. The default is the environment's.
    :param insecure: whether to skip the check of certificates, and to use HTTP if the registry does not serve HTTPS.
    """

    def __init__(
        self,
        registry: str,
        repository: str,
        credential: Credential | None = None,
        actions: str = "pull",
        ca_bundle: str | None = None,
        insecure: bool = False,
    ) -> None:
        self._host = "registry-1.docker.io" if registry == "docker.io" else registry
        self._repository = repository
        self._credential = credential
        self._actions = actions
        self._schemes = ("https", "http") if insecure else ("https",)
        self._options: dict[str, t.Any] = {"timeout": _TIMEOUT, "verify": False if insecure else ca_bundle or True}

    def digest(self, version: str) -> str | None:
        """Return the digest of a tag's manifest, or None if the registry has no such tag.

        :raises DeniedError: if the registry refuses the credential, or requires one.
        :raises RegistryError: if there is no usable answer.
        """
        for scheme in self._schemes:
            url = f"{scheme}://{self._host}/v2/{self._repository}/manifests/{version}"
            try:
                return self._ask(url)
            except requests.exceptions.ConnectionError as error:
                last = error
            except (requests.exceptions.RequestException, LookupError, ValueError, TypeError) as error:
                raise RegistryError(f"no usable answer from {self._host} ({error})") from error
        raise RegistryError(f"no answer from {self._host} ({last})") from last

    def _ask(self, url: str) -> str | None:
        headers = {"Accept": upstream.ACCEPT}
        with requests.Session() as session:
            # Otherwise an entry in .netrc would replace the credential.
            session.auth = lambda request: request
            answer = session.head(url, headers=headers, **self._options)
            if answer.status_code == 401:
                scheme, _space, challenge = answer.headers.get("WWW-Authenticate", "").partition(" ")
                if scheme.lower() == "bearer":
                    token = self._token(session, dict(_PARAMETER.findall(challenge)))
                    headers["Authorization"] = f"Bearer {token}"
                    answer = session.head(url, headers=headers, **self._options)
                elif self._credential:
                    answer = session.head(url, headers=headers, auth=self._credential[:2], **self._options)
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            raise DeniedError(f"HTTP {answer.status_code}")
        if answer.status_code != 200:
            raise RegistryError(f"{self._host} returned HTTP {answer.status_code}")
        return answer.headers["Docker-Content-Digest"]

    def _token(self, session: t.Any, challenge: dict[str, str]) -> str:
        query = {"scope": f"repository:{self._repository}:{self._actions}"}
        if "service" in challenge:
            query["service"] = challenge["service"]
        if self._credential and self._credential.identity_token:
            form = {**query, "grant_type": "refresh_token", "refresh_token": self._credential.identity_token}
            form["client_id"] = "pullthrough.registry_cache"
            answer = session.post(challenge["realm"], data=form, **self._options)
        else:
            auth = self._credential and self._credential[:2]
            answer = session.get(challenge["realm"], params=query, auth=auth, **self._options)
        if answer.status_code in (400, 401, 403):
            raise DeniedError(upstream.words(answer.status_code, answer.content))
        answer.raise_for_status()
        body = answer.json()
        return body.get("token") or body["access_token"]
