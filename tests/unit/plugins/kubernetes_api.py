# SPDX-License-Identifier: GPL-3.0-or-later
"""An API server with namespaces and their objects, as far as the modules of this collection need one."""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.owner import Owner
from kubernetes.dynamic import DynamicClient

from tests.http_server import HttpServer, QuietHandler

_METADATA = re.compile(r"application/json;as=PartialObjectMetadata(List)?;g=meta\.k8s\.io;v=v1")
_DISCOVERY = {
    "/version": {"major": "1", "minor": "34"},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "secrets", "singularName": "secret", "namespaced": True, "kind": "Secret", "verbs": ["get", "list"]}],
    },
    "/apis": {"kind": "APIGroupList", "groups": []},
}
_ESO = "/apis/external-secrets.io/v1"
_ESO_KINDS = {"clustersecretstores": "ClusterSecretStore", "clusterexternalsecrets": "ClusterExternalSecret"}
# Prefix, namespace, kind and name. The last three may be missing.
_PATH = re.compile(r"(/api/v1|/apis/[^/]+/v1)(?:/namespaces/([^/]+))?(?:/([a-z]+))?(?:/([^/]+))?")
_TOKEN = re.compile("/api/v1/namespaces/([^/]+)/serviceaccounts/([^/]+)/token")
_REQUIREMENT = re.compile(r"([\w./-]+)(?:(=|!=)([\w.-]*))?")
_FIELD = re.compile("(.+?)(!?=)(.+)")

Key = tuple[str, str, str]  # kind, namespace, name


class Refusal(Exception):
    def __init__(self, status: int, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body: Any = {"kind": "Status", "status": "Failure", "message": message, "details": details, "code": status}


class ApiServer(HttpServer):
    """Objects by kind, namespace and name. `hook` is called before each request and may raise Refusal."""

    def __init__(self) -> None:
        self.objects: dict[Key, dict[str, Any]] = {}
        # Answers at other paths.
        self.plain: dict[str, Any] = {}
        self.seen: list[tuple[str, str, dict[str, str], str]] = []
        self.tokens: set[str | None] = set()
        self.hook: Callable[[str, str], None] = lambda _method, _path: None
        # Signs a token for namespace, service account and the spec of a TokenRequest.
        self.sign: Callable[[str, str, dict[str, Any]], str] = lambda _namespace, _account, _spec: "token"
        # Discovery documents of API groups, by path.
        self.groups: dict[str, Any] = {}
        # Whether the kinds of external-secrets are installed.
        self.external_secrets = False
        self._uid, self._version, self._lock = 0, 0, threading.Lock()
        outer = self

        class Handler(QuietHandler):
            protocol_version = "HTTP/1.1"
            # Otherwise a body waits about 40 ms for the acknowledgement of its headers.
            disable_nagle_algorithm = True

            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(size)) if size else None
                headers = {}
                try:
                    status, answer = 200, outer.handle(self.command, self.path, body, self.headers)
                except Refusal as refusal:
                    status, answer = refusal.status, refusal.body
                    headers = {"Retry-After": "0"} if status == 429 else {}
                text = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Type": "application/json", "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _answer

        super().__init__(Handler)

    def client(self) -> Client:
        """A client that shares only the server with other clients of this process."""
        return Client(get_api_client(host=self.url, api_key="cluster-token").client)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """Methods and paths of requests, without those that the client sends on its own."""
        return self._asked(dry=True)

    def _asked(self, dry: bool) -> list[tuple[str, str]]:
        found = [(method, path) for method, path, query, _accept in self.seen if dry or "dryRun" not in query]
        return [request for request in found if request[1].startswith(("/api/v1/", "/apis/"))]

    @property
    def writes(self) -> list[tuple[str, str]]:
        """Methods and paths of requests that change something. A dry run does not."""
        return [request for request in self._asked(dry=False) if request[0] != "GET"]

    def story(self, run: Callable[..., dict[str, Any]], *, rewrites: bool = False) -> dict[str, Any]:
        """Run a module four times; return its first result. Check mode reports changes without writing, a run reports the same changes, and
        a second run and check report none.

        :param run: the module, which takes `check`.
        :param rewrites: whether each run applies objects that are the same already.
        """
        before = copy.deepcopy(self.objects)
        self.seen.clear()
        checked = run(check=True)
        assert checked.get("changed"), checked
        assert self.objects == before and self.writes == []
        applied = run(check=False)
        assert {**applied, "invocation": 0} == {**checked, "invocation": 0}
        after = copy.deepcopy(self.objects)
        for check in (False, True):
            self.seen.clear()
            again = run(check=check)
            assert not again["changed"] and self.objects == after
            assert not self.writes or (rewrites and not check)
            assert again["diff"] == [] or again["diff"]["before"] == again["diff"]["after"]
        return applied

    def add(self, kind: str, namespace: str, name: str, /, **fields: Any) -> dict[str, Any]:
        """Add an object. A namespace gets an empty one."""
        self._uid += 1
        metadata = {"name": name, "uid": f"uid-{self._uid}", "labels": {}, **fields.pop("metadata", {})}
        if namespace:
            metadata["namespace"] = namespace
        self.objects[kind, namespace, name] = {"metadata": metadata, **fields}
        self._touch(self.objects[kind, namespace, name])
        return self.objects[kind, namespace, name]

    def bind(self, namespace: str, *names: str) -> None:
        """Add these pull secrets to the default service account, like another tool."""
        item = self.objects["serviceaccounts", namespace, "default"]
        item["imagePullSecrets"] = [{"name": name} for name in names]
        self._touch(item)

    def _touch(self, item: dict[str, Any]) -> None:
        self._version += 1
        item["metadata"]["resourceVersion"] = str(self._version)

    def namespace(self, name: str, leaving: bool = False, **labels: str) -> None:
        metadata: dict[str, Any] = {"labels": labels}
        if leaving:
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        self.add("namespaces", "", name, metadata=metadata, status={"phase": "Active"})
        self.add("serviceaccounts", name, "default")

    def hold(self, text: str, namespace: str = "registry-cache") -> None:
        """Set the active credentials of cache registry-cache, as written by module cache_users."""
        labels, data = Owner(namespace, "registry-cache").labels, {"users": base64.b64encode(text.encode()).decode()}
        self.add("secrets", namespace, "registry-cache-passwords", metadata={"labels": labels}, data=data)

    def secrets(self) -> dict[str, dict[str, Any]]:
        return {f"{namespace}/{name}": item for (kind, namespace, name), item in self.objects.items() if kind == "secrets"}

    def bound(self, namespace: str, account: str = "default") -> list[str]:
        """Return the names of a service account's pull secrets."""
        return [entry["name"] for entry in self.objects["serviceaccounts", namespace, account].get("imagePullSecrets", [])]

    def handle(self, method: str, url: str, body: Any, headers: Any) -> Any:
        parts = urlsplit(url)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.seen.append((method, parts.path, dict(query), headers["Accept"]))
        self.tokens.add(headers["Authorization"])
        self.hook(method, parts.path)
        with self._lock:
            if parts.path in _DISCOVERY:
                return _DISCOVERY[parts.path]
            if parts.path in self.plain:
                return self.plain[parts.path]
            if parts.path == _ESO and self.external_secrets:
                return {"kind": "APIResourceList", "resources": [{"kind": kind} for kind in _ESO_KINDS.values()]}
            if parts.path in self.groups:
                return self.groups[parts.path]
            if method == "POST" and (token := _TOKEN.fullmatch(parts.path)):
                return {"kind": "TokenRequest", "status": {"token": self.sign(token[1], token[2], body["spec"])}}
            found = _PATH.fullmatch(parts.path)
            if not found or (found[1] == _ESO and not self.external_secrets):
                raise Refusal(404, "the server could not find the requested resource")
            _prefix, namespace, kind, name = found.groups()
            if namespace and not kind:
                namespace, kind, name = "", "namespaces", namespace
            if method == "GET" and not name:
                items = [
                    item for key, item in self.objects.items() if key[0] == kind and namespace in (None, key[1]) and _matches(item, query)
                ]
                # Like the API server: null for an empty list of metadata.
                return {"kind": "List", "items": [self._shown(item, headers["Accept"]) for item in items] or None}
            answer = getattr(self, f"_{method.lower()}")((kind, namespace or "", name), body, headers["Content-Type"], query)
            return self._shown(answer, headers["Accept"]) if method == "GET" else answer

    @staticmethod
    def _shown(item: dict[str, Any], accept: str) -> dict[str, Any]:
        return {"metadata": item["metadata"]} if _METADATA.fullmatch(accept) else item

    def _found(self, key: Key, uid: str | None) -> dict[str, Any]:
        if key not in self.objects:
            raise Refusal(404, f'{key[0]} "{key[2]}" not found', name=key[2], kind=key[0])
        found = self.objects[key]
        if uid not in (None, found["metadata"]["uid"]):
            raise Refusal(409, "the UID in the precondition does not match the UID in record")
        return found

    def _post(self, key: Key, body: Any, _content_type: str, query: dict[str, str]) -> Any:
        assert query == {"fieldManager": "registry-cache"} and "data" in body and "stringData" not in body
        kind, namespace, _none = key
        if ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, f'namespaces "{namespace}" not found', name=namespace, kind="namespaces")
        if "deletionTimestamp" in self.objects["namespaces", "", namespace]["metadata"]:
            message = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise Refusal(403, message, causes=[{"reason": "NamespaceTerminating"}])
        name = body["metadata"]["name"]
        if (kind, namespace, name) in self.objects:
            raise Refusal(409, f'secrets "{name}" already exists', name=name, kind="secrets")
        return self.add(kind, namespace, name, **copy.deepcopy(body))

    def _patch(self, key: Key, body: Any, content_type: str, query: dict[str, str]) -> Any:
        if content_type == "application/apply-patch+yaml":
            return self._apply(key, body, query)
        assert content_type == "application/merge-patch+json"
        item = self._found(key, body.get("metadata", {}).pop("uid", None))
        if body["metadata"].get("resourceVersion", item["metadata"]["resourceVersion"]) != item["metadata"]["resourceVersion"]:
            raise Refusal(409, "the object has been modified")
        _merge(item, body)
        self._touch(item)
        return item

    def _apply(self, key: Key, body: Any, query: dict[str, str]) -> Any:
        """Server-side apply with a single field manager."""
        check = query.pop("dryRun", None) == "All"
        assert query == {"fieldManager": "registry-cache", "force": "true"} and "stringData" not in body
        kind, namespace, name = key
        if namespace and ("namespaces", "", namespace) not in self.objects:
            raise Refusal(404, f'namespaces "{namespace}" not found', name=namespace, kind="namespaces")
        found = self.objects.get(key)
        wanted = copy.deepcopy(body)
        for field in ("uid", "resourceVersion"):
            if wanted["metadata"].pop(field, None) not in (None, found and found["metadata"][field]):
                raise Refusal(409, "the object has been modified")
        if found:
            wanted["metadata"].update({field: found["metadata"][field] for field in ("uid", "resourceVersion")})
        if check or wanted == found:
            return wanted
        metadata = {name: value for name, value in wanted.pop("metadata").items() if name not in ("namespace", "resourceVersion")}
        return self.add(kind, namespace, name, **wanted, metadata=metadata)

    def _get(self, key: Key, _body: Any, _content_type: str, _query: dict[str, str]) -> Any:
        return self._found(key, None)

    def _delete(self, key: Key, body: Any, _content_type: str, _query: dict[str, str]) -> Any:
        found = self._found(key, body["preconditions"]["uid"])
        if key[0] == "namespaces":
            if "deletionTimestamp" in found["metadata"]:
                raise Refusal(409, "The system is ensuring all content is removed from this namespace")
            self.objects = {other: item for other, item in self.objects.items() if other[1] != key[2]}
        del self.objects[key]
        return {"kind": "Status", "status": "Success"}


def cut(monkeypatch: pytest.MonkeyPatch, method: str, part: str, error: OSError) -> None:
    """Lose the connection for requests whose path contains a part."""
    request = DynamicClient.request

    def cut_or_request(self: DynamicClient, called: str, path: str, *arguments: Any, **options: Any) -> Any:
        if called == method and part in path:
            raise error
        return request(self, called, path, *arguments, **options)

    monkeypatch.setattr(DynamicClient, "request", cut_or_request)


def _merge(target: dict[str, Any], patch: dict[str, Any]) -> None:
    """RFC 7396."""
    for name, value in patch.items():
        if value is None:
            target.pop(name, None)
        elif isinstance(value, dict):
            _merge(target.setdefault(name, {}), value)
        else:
            target[name] = value


def _matches(item: dict[str, Any], query: dict[str, str]) -> bool:
    labels, fields = item["metadata"].get("labels", {}), {"metadata.name": item["metadata"]["name"], "type": item.get("type")}
    for option, values in (("labelSelector", labels), ("fieldSelector", fields)):
        for requirement in filter(None, query.get(option, "").split(",")):
            if not (found := (_REQUIREMENT if option == "labelSelector" else _FIELD).fullmatch(requirement)):
                raise Refusal(400, f"unable to parse requirement: {requirement}")
            equal = values.get(found[1]) == found[3]
            if not {"=": equal, "!=": not equal, None: found[1] in values}[found[2]]:
                return False
    return True
