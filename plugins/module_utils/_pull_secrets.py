# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull secrets of many namespaces: what is there, what is wanted, and the writes between the two.

Private to this collection. Each kind is listed once, and only differences are written, several at a time.
"""

from __future__ import annotations

import functools
import json
import re
import time
import typing as t
from base64 import b64decode, b64encode
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.pullthrough.registry_cache.plugins.module_utils import _dockerconfigjson, _htpasswd

try:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError
except ImportError:  # the module says that they are missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass

    class HTTPError(Exception):  # type: ignore[no-redef]
        pass


TYPE, KEY = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"
# MaxSecretSize of Kubernetes.
MAX_BYTES = 1 << 20
# On a Secret of ours: the service accounts of its namespace that got it from us, joined by commas.
ATTACHED = "registry-cache.pullthrough/service-accounts"
# What reflector (github.com/emberstack/kubernetes-reflector) reads and writes in annotations.
REFLECTOR = "reflector.v1.k8s.emberstack.com/"
_OF_COPIES = tuple(REFLECTOR + name for name in ("reflects", "auto-reflects", "reflected-version", "reflected-at"))
_MANAGER = "pullthrough.registry_cache"
# A label's value, and a name of Kubernetes: the name is also the label app.kubernetes.io/instance.
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]+)?")
# Seconds to connect and to wait for an answer.
_TIMEOUT = (10, 60)
_MAX_THREADS = 16
# How often a write is tried that the API server puts off (HTTP 429), and the longest pause in seconds.
_TRIES, _MAX_PAUSE = 5, 10
_SHOWN = 5

Key = t.Tuple[str, str]  # namespace, name


class PullSecretError(Exception):
    """What cannot be done; the message is a sentence for the user, without a password."""


class Api:
    """Requests to an API server; safe to use from several threads."""

    def __init__(self, client: t.Any) -> None:
        self._client = client
        # What the client's own pool of connections keeps open.
        self.threads = min(_MAX_THREADS, client.configuration.connection_pool_maxsize or 1)

    def request(self, method: str, path: str, body: t.Any = None, accept: str = "application/json", **options: t.Any) -> t.Any:
        """The decoded answer. Raises ApiException."""
        attempt = 0
        while True:
            attempt += 1
            headers = {"Accept": accept}
            try:
                answer = self._client.request(
                    method, path, body, header_params=headers, serialize=False, _request_timeout=_TIMEOUT, **options
                )
                return json.loads(answer.data)
            except ApiException as error:
                if error.status != 429 or attempt == _TRIES:
                    raise
                pause = (error.headers or {}).get("Retry-After", "1")
                time.sleep(min(float(pause) if pause.isdigit() else 1, _MAX_PAUSE))

    def list_all(self, kind: str, metadata_only: bool = False, **selectors: str) -> list[dict[str, t.Any]]:
        """All objects of a kind in all namespaces. Raises ApiException, and ValueError for an answer that is no list."""
        accept = "application/json"
        if metadata_only:
            accept = f"{accept};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        answer = self.request("get", f"/api/v1/{kind}", accept=accept, **selectors)
        if not isinstance(answer, dict) or "items" not in answer:
            raise ValueError(f"/api/v1/{kind} is no list")
        # Null where there is none, of metadata alone.
        return answer["items"] or []

    def each(self, tasks: t.Iterable[t.Callable[[], t.Any]]) -> list[t.Any]:
        """What the tasks return, in their order; several run at a time."""
        with ThreadPoolExecutor(self.threads) as executor:
            return [future.result() for future in [executor.submit(task) for task in tasks]]


class Change(t.NamedTuple):
    """What is to be written of one Secret, and of the service accounts of its namespace."""

    key: Key
    action: str  # create, update, remove or keep
    uid: str | None
    content: str | None
    record: str | None
    attach: list[str]
    detach: list[str]
    before: str | None
    after: str | None

    @property
    def needed(self) -> bool:
        return self.action != "keep" or bool(self.attach or self.detach)


def words(error: ApiException) -> str:
    """The API server's own message with its status."""
    try:
        message = json.loads(error.body)["message"]
    except (ValueError, LookupError, TypeError):
        message = error.reason
    return f"HTTP {error.status}: {message}" if error.status else str(message)


def some(names: t.Iterable[str]) -> str:
    """The first few, and how many more."""
    ordered = sorted(names)
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more


def named(key: Key) -> str:
    return "/".join(key)


def labels(instance: str) -> dict[str, str]:
    """What marks a Secret as ours."""
    return {
        "app.kubernetes.io/name": "registry-cache",
        "app.kubernetes.io/instance": instance,
        "app.kubernetes.io/part-of": "registry-cache",
        "app.kubernetes.io/managed-by": _MANAGER,
    }


def check(instance: str, secrets: list[dict[str, t.Any]]) -> None:
    """:raises PullSecretError: for what no cluster can hold; asks none."""
    for option, name in [("instance", instance), *(("name", secret["name"]) for secret in secrets)]:
        if len(name) > 63 or not _NAME.fullmatch(name):
            raise PullSecretError(
                f"{option}: '{name}' must have 1 to 63 of a-z, 0-9, '-' and '.', and begin and end with a letter or digit."
                f" Example: {option}: registry-cache"
            )
    for secret in secrets:
        user = secret["username"]
        try:
            _htpasswd.check_user(_htpasswd.User(user, secret["password"], True))
        except _htpasswd.UserError as error:
            raise PullSecretError(f"username and password: {error}") from None
        if any(ord(letter) < 32 for letter in secret["password"]):
            raise PullSecretError(
                f"password: that of user '{user}' holds a line break or another control character. Choose another one"
            )
        if not secret["hosts"]:
            raise PullSecretError(f"hosts: user '{user}' has none. Example: hosts: ['localhost:30026']")
        for host in secret["hosts"]:
            if not _HOST.fullmatch(host):
                raise PullSecretError(
                    f"hosts: '{host}' must be a host with its port, as in image references. Example: hosts: ['localhost:30026']"
                )
        if len(content(secret)) > MAX_BYTES:
            raise PullSecretError(
                f"hosts: the {len(secret['hosts'])} hosts of user '{user}' make a pull secret of over 1 MiB, which Kubernetes"
                " does not keep. Name fewer hosts"
            )
        if secret["namespace_selector"] is not None and not secret["namespace_selector"].strip():
            raise PullSecretError(
                "namespace_selector: it is empty, and would match every namespace. Example: namespace_selector: team=a"
                " (for every namespace, set all_namespaces_but: [])"
            )


def content(secret: dict[str, t.Any]) -> str:
    return _dockerconfigjson.render(secret["hosts"], secret["username"], secret["password"])


class Plan:
    """What the cluster has and what is wanted of it. Raises PullSecretError if that cannot be done."""

    def __init__(self, api: Api, instance: str, secrets: list[dict[str, t.Any]], reflected_from: str | None = None) -> None:
        self._api, self._instance, self._reflected_from = api, instance, reflected_from
        self.warnings: list[str] = []
        ours, namespaces, selected, foreign = self._read(secrets)
        wanted = self._wanted(secrets, namespaces, selected)
        if refused := sorted((set(wanted) & foreign) - set(ours)):
            raise PullSecretError(
                f"name: there is another Secret {some(named(key) for key in refused)}, which this module did not make for"
                f" instance '{instance}'. Delete it, or choose another name. Example: name: registry-cache-pull"
            )
        accounts = self._service_accounts(ours, wanted)
        self.changes = [self._change(key, ours.get(key), wanted.get(key), accounts) for key in sorted({*ours, *wanted})]

    def _read(self, secrets: list[dict[str, t.Any]]) -> tuple[t.Any, ...]:
        mark = f"app.kubernetes.io/managed-by={_MANAGER},app.kubernetes.io/instance={self._instance}"
        # What a controller copies is no pull secret itself.
        mark += ",app.kubernetes.io/component!=pull-secret-source"
        names = sorted({secret["name"] for secret in secrets})
        selectors = sorted({secret["namespace_selector"] for secret in secrets} - {None})
        tasks: list[t.Callable[[], t.Any]] = [
            lambda: self._list("secrets", label_selector=mark, field_selector=f"type={TYPE}"),
            lambda: self._list("namespaces", metadata_only=True) if any(_needs_all(secret) for secret in secrets) else [],
        ]
        tasks += [functools.partial(self._select, selector) for selector in selectors]
        # The content of what others made is none of ours.
        tasks += [functools.partial(self._list, "secrets", metadata_only=True, field_selector=f"metadata.name={name}") for name in names]
        marked, namespaces, *rest = self._api.each(tasks)
        selected, others = dict(zip(selectors, rest)), rest[len(selectors) :]
        copies = {_key(item): item for items in others for item in items if self._is_copy(item)}
        return (
            {**copies, **{_key(item): item for item in marked}},
            {item["metadata"]["name"]: "deletionTimestamp" not in item["metadata"] for item in namespaces},
            selected,
            {_key(item) for items in others for item in items},
        )

    def _is_copy(self, item: dict[str, t.Any]) -> bool:
        """Whether reflector made it of our source."""
        source = (item["metadata"].get("annotations") or {}).get(_OF_COPIES[0])
        return self._reflected_from is not None and source == f"{self._reflected_from}/{item['metadata']['name']}"

    def _list(self, kind: str, **options: t.Any) -> list[dict[str, t.Any]]:
        try:
            return self._api.list_all(kind, **options)
        except ApiException as error:
            if error.status not in (401, 403):
                raise
            raise PullSecretError(
                f"The cluster does not list its {kind} ({words(error)}). Use an identity that may list {kind} in all namespaces"
            ) from error

    def _select(self, selector: str) -> list[str]:
        try:
            items = self._list("namespaces", metadata_only=True, label_selector=selector)
        except ApiException as error:
            if error.status != 400:
                raise
            raise PullSecretError(
                f"namespace_selector: '{selector}' is no label selector ({words(error)}). Example: namespace_selector: team=a"
            ) from error
        return [item["metadata"]["name"] for item in items if "deletionTimestamp" not in item["metadata"]]

    @staticmethod
    def _wanted(
        secrets: list[dict[str, t.Any]], namespaces: dict[str, bool], selected: dict[str, list[str]]
    ) -> dict[Key, dict[str, t.Any]]:
        wanted: dict[Key, dict[str, t.Any]] = {}
        for secret in secrets:
            if missing := set(secret["namespaces"] or ()) - set(namespaces):
                raise PullSecretError(
                    f"namespaces: there is no namespace {some(missing)} in the cluster. Create it, or take it from the list."
                    " Example: namespaces: [default]"
                )
            if leaving := {name for name in secret["namespaces"] or () if not namespaces[name]}:
                raise PullSecretError(
                    f"namespaces: namespace {some(leaving)} is being deleted. Take it from the list, or run again"
                    " when it is there anew"
                )
            if secret["namespaces"] is not None:
                matching = secret["namespaces"]
            elif secret["namespace_selector"] is not None:
                matching = selected[secret["namespace_selector"]]
            else:
                matching = [name for name, there in namespaces.items() if there and name not in secret["all_namespaces_but"]]
            for namespace in matching:
                other = wanted.setdefault((namespace, secret["name"]), secret)
                if other is not secret:
                    raise PullSecretError(
                        f"name: users '{other['username']}' and '{secret['username']}' would both have Secret {secret['name']}"
                        f" in namespace {namespace}. Give one of them another name or other namespaces"
                    )
        return wanted

    def _service_accounts(self, ours: dict[Key, t.Any], wanted: dict[Key, t.Any]) -> dict[Key, set[str]]:
        """The pull secrets of each service account; asked only where some are wanted or recorded."""
        if not any(secret["service_accounts"] for secret in wanted.values()) and not any(map(_recorded, ours.values())):
            return {}
        items = self._list("serviceaccounts")
        self._accounts = {_key(item): item for item in items}
        accounts = {
            key: {entry.get("name", "") for entry in item.get("imagePullSecrets") or ()} for key, item in self._accounts.items()
        }
        missing: dict[str, list[str]] = {}
        for (namespace, _name), secret in wanted.items():
            for account in secret["service_accounts"]:
                if (namespace, account) not in accounts:
                    missing.setdefault(account, []).append(namespace)
        for account, where in missing.items():
            self.warnings.append(f"service_accounts: there is no {account} in {some(where)}; once it is there, run again.")
        return accounts

    def _change(self, key: Key, found: t.Any, secret: dict[str, t.Any] | None, accounts: dict[Key, set[str]]) -> Change:
        namespace, name = key
        recorded = _recorded(found)
        asked = {account for account in secret["service_accounts"] if (namespace, account) in accounts} if secret else set()
        attach = sorted(account for account in asked if name not in accounts[namespace, account])
        # What somebody else attached stays theirs.
        record = sorted(asked & recorded | set(attach))
        detach = sorted(account for account in recorded - asked if name in accounts.get((namespace, account), ()))
        uid = found["metadata"]["uid"] if found else None
        before = f"{named(key)}: {', '.join(_dockerconfigjson.hosts(_decoded(found)))}" if found else None
        if secret is None:
            return Change(key, "remove", uid, None, None, [], detach, before, None)
        text = content(secret)
        after = f"{named(key)}: {', '.join(sorted(set(secret['hosts'])))}"
        action, replaced = "keep", found and _decoded(found) != text
        if found is None:
            action = "create"
        elif replaced or labels(self._instance).items() - (found["metadata"].get("labels") or {}).items() or set(record) != recorded:
            action = "update"
        if replaced and before == after:
            after += " (credential replaced)"
        return Change(key, action, uid, text, ",".join(record) or None, attach, detach, before, after)

    def write(self) -> list[str]:
        """Write what differs; returns what was in the way of each Secret that could not be written."""
        needed: dict[str, list[Change]] = {}
        for change in self.changes:
            if change.needed:
                needed.setdefault(change.key[0], []).append(change)
        # One after another within a namespace, whose Secrets may come to the same service account.
        written = self._api.each([functools.partial(self._write_all, changes) for changes in needed.values()])
        return [failure for failures in written for failure in failures if failure]

    def _write_all(self, changes: list[Change]) -> list[str | None]:
        return [self._written(change) for change in changes]

    def _written(self, change: Change) -> str | None:
        namespace, name = change.key
        try:
            # In this order what the record says of service accounts is never less than what is so.
            for account in change.detach:
                self._bind((namespace, account), name, False)
            self._write(change)
            for account in change.attach:
                self._bind((namespace, account), name, True)
        except ApiException as error:
            if _is_leaving(error):
                self.warnings.append(f"Namespace {namespace} is being deleted: it was left out.")
                self.changes.remove(change)
                return None
            hint = "; somebody else changed it meanwhile" if error.status == 409 else ""
            return f"Secret {named(change.key)} could not be written ({words(error)}{hint})"
        except (HTTPError, OSError, ValueError) as error:
            return f"Secret {named(change.key)} could not be written ({error})"
        return None

    def _write(self, change: Change) -> None:
        namespace, name = change.key
        path = f"/api/v1/namespaces/{namespace}/secrets"
        data = {KEY: b64encode(change.content.encode()).decode()} if change.content is not None else None
        metadata: dict[str, t.Any] = {"labels": labels(self._instance), "annotations": {ATTACHED: change.record}}
        if change.action == "create":
            metadata["name"] = name
            if change.record is None:
                del metadata["annotations"]
            body = {"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": metadata, "data": data}
            self._api.request("post", path, body, field_manager="registry-cache")
        elif change.action == "update":
            # The uid keeps another Secret that took this one's name meanwhile as it is.
            metadata["uid"] = change.uid
            if self._reflected_from is not None:
                # From here on it is no copy: reflector leaves it alone.
                metadata["annotations"].update(dict.fromkeys(_OF_COPIES))
            body = {"metadata": metadata, "data": data}
            options = {"content_type": "application/merge-patch+json", "field_manager": "registry-cache"}
            self._api.request("patch", f"{path}/{name}", body, **options)
        elif change.action == "remove":
            try:
                self._api.request("delete", f"{path}/{name}", {"preconditions": {"uid": change.uid}})
            except ApiException as error:
                if error.status != 404:
                    raise

    def _bind(self, account: Key, name: str, wanted: bool) -> None:
        """Add a pull secret to a service account or take it away; the others there stay, whoever writes at the same time."""
        path = "/api/v1/namespaces/{}/serviceaccounts/{}".format(*account)
        found = self._accounts[account]
        options = {"content_type": "application/merge-patch+json", "field_manager": "registry-cache"}
        for attempt in range(1, _TRIES + 1):
            # Atomic in a service account, other than in a pod: no patch adds one entry.
            entries = [entry for entry in found.get("imagePullSecrets") or () if entry.get("name") != name]
            entries += [{"name": name}] if wanted else []
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
            try:
                found = self._api.request("patch", path, {"metadata": metadata, "imagePullSecrets": entries}, **options)
                self._accounts[account] = found
                return
            except ApiException as error:
                if error.status == 404:  # it went meanwhile
                    return
                if error.status != 409 or attempt == _TRIES:
                    raise
            try:
                found = self._api.request("get", path)
            except ApiException as error:
                if error.status != 404:
                    raise
                return


def _needs_all(secret: dict[str, t.Any]) -> bool:
    return bool(secret["namespaces"]) or secret["all_namespaces_but"] is not None


def _key(item: dict[str, t.Any]) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _recorded(found: t.Any) -> set[str]:
    annotations = found["metadata"].get("annotations") or {} if found else {}
    return set(filter(None, annotations.get(ATTACHED, "").split(",")))


def _decoded(found: dict[str, t.Any]) -> str:
    return b64decode((found.get("data") or {}).get(KEY, "")).decode(errors="replace")


def _is_leaving(error: ApiException) -> bool:
    """Whether a namespace refuses new objects since it is being deleted, or has gone."""
    try:
        details = json.loads(error.body)["details"]
        causes = {cause.get("reason") for cause in details.get("causes") or ()}
    except (ValueError, LookupError, TypeError, AttributeError):
        return False
    return "NamespaceTerminating" in causes or (error.status == 404 and details.get("kind") == "namespaces")
