# SPDX-License-Identifier: GPL-3.0-or-later
"""iam.googleapis.com: service accounts, their policies and their keys (discovery document v1)."""

from __future__ import annotations

import base64
import json
import re
import secrets
import time
from collections.abc import Callable

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from . import messages
from .access import Access
from .errors import GoogleError, not_found
from .policies import POLICY, Policies
from .store import Resource, Store

_ID = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]")
_DELETED_SECONDS = 30 * 24 * 3600
_KEY_YEARS = 10
_MUTABLE: messages.Fields = {"displayName": str, "description": str}
_ACCOUNT: messages.Fields = {
    **_MUTABLE,
    "name": str,
    "projectId": str,
    "uniqueId": str,
    "email": str,
    "etag": str,
    "oauth2ClientId": str,
    "disabled": bool,
}
_KINDS = ("iam.serviceAccounts", "iam.serviceAccountKeys")


class Accounts:
    """Accounts by full name, which ends in the unique id, since an address can be reused after a deletion."""

    def __init__(
        self, store: Store, access: Access, policies: Policies, clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._access, self._policies, self._clock = store, access, policies, clock
        all_ = "/v1/projects/{project}/serviceAccounts"
        one = f"{all_}/{{account}}"
        self.routes = [
            Route(all_, self._create, methods=["POST"]),
            Route(all_, self._list, methods=["GET"]),
            Route(f"{one}/keys", self._create_key, methods=["POST"]),
            Route(f"{one}/keys/{{key}}", self._delete_key, methods=["DELETE"]),
            Route(f"{one}:undelete", self._undelete, methods=["POST"]),
            Route(f"{one}:enable", self._enable, methods=["POST"]),
            Route(f"{one}:disable", self._disable, methods=["POST"]),
            Route(f"{one}:getIamPolicy", self._get_policy, methods=["POST"]),
            Route(f"{one}:setIamPolicy", self._set_policy, methods=["POST"]),
            Route(one, self._get, methods=["GET"]),
            Route(one, self._patch, methods=["PATCH"]),
            Route(one, self._delete, methods=["DELETE"]),
        ]

    def _existing(self, request: Request, permission: str) -> str:
        """Returns the full name of the request's account if the caller has the permission. The project may be `-`."""
        name = self._store.account(request.path_params["account"])
        project = request.path_params["project"]
        if name is not None and project == "-":
            project = name.split("/")[1]
        relative = name.partition("/serviceAccounts/")[2] if name else request.path_params["account"]
        known = self._access.require(
            request, "iam", permission, f"serviceAccounts/{relative}", project=project, named=False
        )
        if name is None or name.split("/")[1] != known:
            raise GoogleError("NOT_FOUND", f"Service account {request.path_params['account']} does not exist.")
        return name

    async def _create(self, request: Request) -> JSONResponse:
        project = self._access.require(request, "iam", "iam.serviceAccounts.create", named=False)
        body = await messages.read(request, {"accountId": str, "serviceAccount": _ACCOUNT})
        short, wanted = body.get("accountId", ""), _chosen(body.get("serviceAccount", {}))
        if not _ID.fullmatch(short):
            raise GoogleError(
                "INVALID_ARGUMENT",
                f"Invalid service account id '{short}': 6-30 characters of [a-z0-9-] that begin with a letter.",
            )
        _check(wanted)
        # A domain-scoped project, example.com:name, has the domain at the end.
        email = f"{short}@{'.'.join(reversed(project.split(':')))}.iam.gserviceaccount.com"
        if self._store.account(email):
            raise GoogleError(
                "ALREADY_EXISTS", f"Service account {short} already exists within project projects/{project}."
            )
        unique = str(10**20 + secrets.randbelow(10**20))
        self._store.accounts[f"projects/{project}/serviceAccounts/{unique}"] = {
            "name": f"projects/{project}/serviceAccounts/{email}",
            "projectId": project,
            "uniqueId": unique,
            "email": email,
            "oauth2ClientId": unique,
            "etag": _etag(),
            **wanted,
        }
        self._store.save()
        return JSONResponse(self._store.accounts[f"projects/{project}/serviceAccounts/{unique}"])

    async def _list(self, request: Request) -> JSONResponse:
        project = self._access.require(request, "iam", "iam.serviceAccounts.list", named=False)
        live = [a for a in self._store.accounts.values() if a["projectId"] == project and "expireTime" not in a]
        items, rest = messages.page(request, sorted(live, key=lambda account: account["email"]), 20, 100)
        return JSONResponse(messages.pruned({"accounts": items, **rest}, {}))

    async def _get(self, request: Request) -> JSONResponse:
        return JSONResponse(self._store.accounts[self._existing(request, "iam.serviceAccounts.get")])

    async def _patch(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccounts.update")
        body = await messages.read(request, {"serviceAccount": _ACCOUNT, "updateMask": str})
        paths = messages.mask(body.get("updateMask", ""), _MUTABLE)
        change = body.get("serviceAccount", {})
        return self._put(name, messages.updated(self._store.accounts[name], change, paths, _ACCOUNT))

    async def _enable(self, request: Request) -> JSONResponse:
        return await self._switch(request, "enable", disabled=False)

    async def _disable(self, request: Request) -> JSONResponse:
        return await self._switch(request, "disable", disabled=True)

    async def _switch(self, request: Request, verb: str, *, disabled: bool) -> JSONResponse:
        name = self._existing(request, f"iam.serviceAccounts.{verb}")
        await messages.read(request, {})
        self._put(name, messages.pruned({**self._store.accounts[name], "disabled": disabled}, _ACCOUNT))
        return JSONResponse({})

    def _put(self, name: str, account: Resource) -> JSONResponse:
        _check(account)
        self._store.accounts[name] = {**account, "etag": _etag()}
        self._store.save()
        return JSONResponse(self._store.accounts[name])

    async def _delete(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccounts.delete")
        account = self._store.accounts[name]
        account["expireTime"] = messages.rfc3339(self._clock() + _DELETED_SECONDS)
        self._policies.rename(*_members(account))
        self._store.save()
        return JSONResponse({})

    async def _undelete(self, request: Request) -> JSONResponse:
        """Undelete by the unique id, since the address may belong to another account."""
        project = self._access.require(request, "iam", "iam.serviceAccounts.undelete", named=False)
        await messages.read(request, {})
        account = self._store.accounts.get(f"projects/{project}/serviceAccounts/{request.path_params['account']}")
        if account is None:
            raise not_found()
        if "expireTime" not in account or self._store.account(account["email"]):
            raise GoogleError("FAILED_PRECONDITION", "The service account is not deleted, or its address is in use.")
        del account["expireTime"]
        live, deleted = _members(account)
        self._policies.rename(deleted, live)
        self._store.save()
        return JSONResponse({"restoredAccount": account})

    async def _get_policy(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccounts.getIamPolicy")
        return JSONResponse(self._policies.read(name, request.query_params.get("options.requestedPolicyVersion", "0")))

    async def _set_policy(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccounts.setIamPolicy")
        body = await messages.read(request, {"policy": POLICY, "updateMask": str})
        return JSONResponse(self._policies.write(name, _KINDS, body.get("policy", {})))

    async def _create_key(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccountKeys.create")
        body = await messages.read(request, {"privateKeyType": str, "keyAlgorithm": str})
        kind = body.get("privateKeyType", "TYPE_GOOGLE_CREDENTIALS_FILE")
        if kind != "TYPE_GOOGLE_CREDENTIALS_FILE" or body.get("keyAlgorithm", "KEY_ALG_RSA_2048") != "KEY_ALG_RSA_2048":
            raise GoogleError("UNIMPLEMENTED", "This emulator creates only JSON credentials with an RSA key of 2048 bits.")
        account, key = self._store.accounts[name], rsa.generate_private_key(public_exponent=65537, key_size=2048)
        identifier = secrets.token_hex(20)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._store.keys[identifier] = {"account": name, "publicKey": public.decode()}
        self._store.save()
        credential = {
            "type": "service_account",
            "project_id": account["projectId"],
            "private_key_id": identifier,
            "private_key": pem.decode(),
            "client_email": account["email"],
            "client_id": account["uniqueId"],
            "auth_uri": "https://accounts.google.com/o/oauth2/auth",
            "token_uri": "https://oauth2.googleapis.com/token",
            "universe_domain": "googleapis.com",
        }
        return JSONResponse(
            {
                "name": f"{account['name']}/keys/{identifier}",
                "privateKeyType": kind,
                "privateKeyData": base64.b64encode(json.dumps(credential, indent=2).encode()).decode(),
                "validAfterTime": messages.rfc3339(self._clock()),
                "validBeforeTime": messages.rfc3339(self._clock() + _KEY_YEARS * 365 * 24 * 3600),
                "keyAlgorithm": "KEY_ALG_RSA_2048",
                "keyOrigin": "GOOGLE_PROVIDED",
                "keyType": "USER_MANAGED",
            }
        )

    async def _delete_key(self, request: Request) -> JSONResponse:
        name = self._existing(request, "iam.serviceAccountKeys.delete")
        key = self._store.keys.get(request.path_params["key"])
        if key is None or key["account"] != name:
            raise not_found()
        del self._store.keys[request.path_params["key"]]
        self._store.save()
        return JSONResponse({})


def _chosen(account: Resource) -> Resource:
    """Returns the fields that a client may set."""
    return {key: value for key, value in account.items() if key in _MUTABLE}


def _check(account: Resource) -> None:
    for field, limit in (("displayName", 100), ("description", 256)):
        if len(account.get(field, "").encode()) > limit:
            raise GoogleError("INVALID_ARGUMENT", f"The field {field} must not exceed {limit} bytes.")


def _etag() -> str:
    return base64.b64encode(secrets.token_bytes(9)).decode()


def _members(account: Resource) -> tuple[str, str]:
    """Returns the member for an account in policies, before and after its deletion."""
    return f"serviceAccount:{account['email']}", f"deleted:serviceAccount:{account['email']}?uid={account['uniqueId']}"
