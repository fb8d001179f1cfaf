# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions about a repository: its policy, who may pull, manifests and blobs.

Private to this collection.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
import typing as t
import urllib.parse

from ..artifact_registry import API as AR
from ..service_account import email
from .answers import content, outcome, required, status_is, until
from .run import MANIFEST, Run

DEVSTORAGE = "https://www.googleapis.com/auth/devstorage.read_write"
BLOB = b"acceptance".ljust(64, b".")


def ask_repository(run: Run) -> None:
    """Ask about a repository and its policy before anyone may pull, and push an image to it."""
    name = run.name
    operation = run.make("repository", run.repositories, {"format": "DOCKER"}, repositoryId=name)
    run.answer("repository_create_is_operation", {"name": operation.get("name")})
    run.finish(AR, operation)
    policy = run.call("GET", f"{run.repository}:getIamPolicy")
    run.answer("getiampolicy_is_get", outcome(policy))
    run.answer("empty_policy", sorted(content(policy)))
    pool = run.pool_name.replace(f"/{name}", f"/{name}-none")
    run.answer("unknown_pool_in_policy", outcome(run.grant(f"principal://iam.googleapis.com/{pool}/subject/x")))
    nobody = f"serviceAccount:{email(f'{name}-none', run.project)}"
    run.answer("unknown_account_in_policy", outcome(run.grant(nobody)))
    _push(run)


def _push(run: Run) -> None:
    """Push an image of two tiny blobs with the module's credential. Raise GcpError."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}).encode()
    kind = "application/vnd.oci.image"
    for blob in (config, BLOB):
        started = run.call("POST", run.url("blobs/uploads/"))
        required(started, 202)
        target = urllib.parse.urljoin(run.url(""), started.headers.get("location", ""))
        required(run.upload(target, blob, "application/octet-stream", digest=_digest(blob)), 201)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": f"{kind}.config.v1+json", "digest": _digest(config), "size": len(config)},
        "layers": [{"mediaType": f"{kind}.layer.v1.tar", "digest": _digest(BLOB), "size": len(BLOB)}],
    }
    required(run.upload(run.url("manifests/1.0"), json.dumps(manifest).encode(), MANIFEST), 201)


def _challenged(answer: t.Any) -> dict[str, t.Any]:
    return {**outcome(answer), "challenge": answer.headers.get("www-authenticate")}


def ask_challenges(run: Run) -> None:
    """Ask about authentication before the grant."""
    root, bad = f"https://{run.host}/v2/", "not-good"
    run.answer("v2_challenge_without_service", _challenged(run.get(root)))
    run.answer("repository_challenge", _challenged(run.manifest(None)))
    run.answer("bad_credential_no_challenge", _challenged(run.get(root, bad)))
    run.answer("bad_credential_at_v2_token", _challenged(run.docker_token(bad)))
    run.answer("v2_token_is_get", outcome(run.get(f"{root}token", method="POST")))
    run.answer("anonymous_at_v2_token", outcome(run.docker_token(None)))
    token = run.access_token("cluster")
    missing = f"repository:{run.project}/{run.name}-none/image:pull"
    run.answer("denied_at_v2_token", outcome(run.docker_token(token)))
    run.answer("missing_repository_unprivileged", outcome(run.docker_token(token, missing)))
    run.answer("missing_repository_privileged", outcome(run.docker_token(run.client.token, missing)))
    run.answer("short_name", outcome(run.docker_token(token, "repository:short:pull")))


def ask_images(run: Run) -> None:
    """Ask what a reader of the repository gets, from the grant until a token expires."""
    token, member, before = run.access_token("cluster"), run.member(), run.policy()["etag"]
    required(run.grant(member))
    _answer, seconds = until(lambda: run.docker_token(token), status_is(200))
    run.answer("grant_lag_seconds", seconds)
    run.answer("stale_etag_409", outcome(run.grant(member, etag=before)))
    run.answer("no_etag_overwrites", outcome(run.grant(member, etag="")))
    run.answer("v2_token_claims_12_hours", content(run.docker_token(token)).get("expires_in"))
    run.answer("raw_token_as_bearer", outcome(until(lambda: run.manifest(token), status_is(200))[0]))
    narrow = run.access_token("cluster", scope=DEVSTORAGE)
    run.answer("devstorage_scope", outcome(until(lambda: run.manifest(narrow), status_is(200), 60)[0]))
    plain = run.get(run.url("manifests/1.0"), token)
    digest = plain.headers.get("docker-content-digest") == _digest(plain.content)
    run.answer("manifest_without_accept", {"status": plain.status_code, "digest": digest})
    run.answer("missing_tag", outcome(run.manifest(token, "none")))
    run.answer("missing_blob", outcome(run.get(run.url(f"blobs/{_digest(b'none')}"), token)))
    _ask_blob(run, token)

    started, short = time.monotonic(), run.access_token(end=20)
    docker, ends = required(run.docker_token(short))["token"], started + 20
    required(run.manifest(docker))  # so that a later refusal means that the token has expired
    time.sleep(max(0, ends - time.monotonic()))
    _answer, _seconds = until(lambda: run.manifest(docker), status_is(401), 120)
    run.answer("v2_token_ends_with_access_token", round(time.monotonic() - ends, 1))
    expired, _seconds = until(lambda: run.docker_token(short), status_is(401), 120)
    run.answer("expired_token_at_v2_token", _challenged(expired))


def _ask_blob(run: Run, token: str) -> None:
    url = run.url(f"blobs/{_digest(BLOB)}")
    redirect = run.get(url, token)
    location = redirect.headers.get("location", "")
    run.answer("blob_is_relative_302", {"status": redirect.status_code, "location": _shown(location)})
    head = run.get(url, token, method="HEAD", **{"Accept-Encoding": "identity"})
    run.answer("blob_head", {"status": head.status_code, "content_length": head.headers.get("content-length")})
    if not location:
        names = ("blob_url_needs_no_credential", "blob_url_again", "blob_range_206")
        run.reasons.update(dict.fromkeys(names, "a blob comes without a redirect"))
        return
    target = urllib.parse.urljoin(url, location)
    for name in ("blob_url_needs_no_credential", "blob_url_again"):
        blob = run.get(target)
        run.answer(name, {"status": blob.status_code, "digest": blob.content == BLOB})
    part = run.get(target, Range="bytes=1-3")
    content_range = part.headers.get("content-range")
    run.answer("blob_range_206", {"status": part.status_code, "content_range": content_range, "bytes": len(part.content)})


def _shown(location: str) -> str:
    """Return a URL without the parts that make it a credential: its query, and the path after /downloads/."""
    path = re.sub(r"(/downloads/).+", r"\1TOKEN", location.partition("?")[0])
    return f"{path}?…" if "?" in location else path


def _digest(body: bytes) -> str:
    return f"sha256:{hashlib.sha256(body).hexdigest()}"
