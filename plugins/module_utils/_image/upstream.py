# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gets a manifest from an upstream registry with the distribution token flow
(https://distribution.github.io/distribution/spec/auth/token/).

Private to this collection.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import tempfile
import traceback
import typing as t

try:
    import requests
except ImportError:
    IMPORT_ERROR: str | None = traceback.format_exc()
else:
    IMPORT_ERROR = None

ACCEPT = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)
# Timeouts in seconds: to connect, and to wait for an answer.
_TIMEOUT = (10, 30)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


def ca_bundle(extra: bytes) -> t.Any:
    """Return an open temporary file with the environment's CA certificates and additional ones. Closing it removes the file."""
    usual = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or requests.certs.where()
    bundle = tempfile.NamedTemporaryFile(suffix=".pem")  # noqa: SIM115  # pylint: disable=consider-using-with
    bundle.write(pathlib.Path(usual).read_bytes() + b"\n" + extra + b"\n")
    bundle.flush()
    return bundle


class UpstreamError(Exception):
    """The upstream did not return the manifest. The text contains the upstream's own message."""


class NotFoundError(UpstreamError):
    """The upstream accepted the credential but has no such manifest or repository. Without access, it returns HTTP 403 instead."""


def words(status: int, body: bytes) -> str:
    """Return the upstream's own message for an error: the first error in the body, as in the distribution specification."""
    try:
        answer: t.Any = json.loads(body)
        message = answer["errors"][0].get("message") or answer["errors"][0]["code"]
    except (ValueError, LookupError, TypeError, AttributeError):
        message = body.decode(errors="replace").strip()[:300]
    return f"HTTP {status}: {message}"


def _refusal(answer: t.Any) -> UpstreamError:
    kind = NotFoundError if answer.status_code == 404 else UpstreamError
    return kind(words(answer.status_code, answer.content))


def digest(body: bytes) -> str:
    return "sha256:" + hashlib.sha256(body).hexdigest()


def fetch_manifest(
    host: str, repository: str, version: str, username: str, secret: str, ca_bundle: str | None = None
) -> str:
    """Get a manifest directly from the upstream with a credential.

    :param version: tag or digest.
    :param ca_bundle: path of the CA certificates to trust. The default is the environment's.
    :return: digest of the manifest.
    :raises NotFoundError: if the manifest does not exist.
    :raises UpstreamError: for any other error, with the upstream's own message.
    """
    # Set for each request, because REQUESTS_CA_BUNDLE would override the session's setting.
    options: dict[str, t.Any] = {"timeout": _TIMEOUT, "verify": ca_bundle or True}
    url = f"https://{host}/v2/{repository}/manifests/{version}"
    headers = {"Accept": ACCEPT}
    try:
        with requests.Session() as session:
            # Otherwise an entry in .netrc would replace the credential.
            session.auth = lambda request: request
            ping = session.get(f"https://{host}/v2/", **options)
            scheme, _space, challenge = ping.headers.get("WWW-Authenticate", "").partition(" ")
            if ping.status_code == 401 and scheme.lower() == "bearer":
                parameters = dict(_PARAMETER.findall(challenge))
                query = {"scope": f"repository:{repository}:pull"}
                if "service" in parameters:
                    query["service"] = parameters["service"]
                answer = session.get(parameters["realm"], params=query, auth=(username, secret), **options)
                if answer.status_code != 200:
                    raise _refusal(answer)
                token = answer.json().get("token") or answer.json()["access_token"]
                manifest = session.get(url, headers={**headers, "Authorization": f"Bearer {token}"}, **options)
            else:
                auth = (username, secret) if ping.status_code == 401 else None
                manifest = session.get(url, headers=headers, auth=auth, **options)
    except (requests.exceptions.RequestException, LookupError, AttributeError) as error:
        raise UpstreamError(f"no usable answer from https://{host}/v2/ ({error})") from error
    if manifest.status_code != 200:
        raise _refusal(manifest)
    return digest(manifest.content)
