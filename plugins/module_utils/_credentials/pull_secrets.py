# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull secrets of many namespaces: the existing ones, the wanted ones, and the writes between the two.

Private to this collection. Each kind is listed once, and only differences are written, several at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing as t
from base64 import b64decode, b64encode

from .._kubernetes.client import PATCH, Client
from .._kubernetes.errors import ApiError, ClusterError, ConflictError, ForbiddenError, NotFoundError, UnreachableError, some
from .._kubernetes.owner import COMPONENT, NAME, PREFIX, Owner, manager
from . import dockerconfigjson, htpasswd

TYPE, KEY = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"
# MaxSecretSize of Kubernetes.
MAX_BYTES = 1 << 20
# On a Secret: the names of the labels and annotations that a user asked for, so that one no longer wanted is removed.
_ADDED = {"labels": PREFIX + "added-labels", "annotations": PREFIX + "added-annotations"}
# On a service account, with the owner's short name: a label, and an annotation with the pull secrets that this module attached.
_ATTACHED = "attached.registry-cache.pullthrough/"
# What reflector (github.com/emberstack/kubernetes-reflector) reads and writes in annotations.
REFLECTOR = "reflector.v1.k8s.emberstack.com/"
_OF_COPIES = tuple(REFLECTOR + name for name in ("reflects", "auto-reflects", "reflected-version", "reflected-at"))
# The component of what a controller copies, which is no pull secret itself.
SOURCE = "pull-secret-source"
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]+)?")
# How often a service account is read again that somebody else changes meanwhile.
_TRIES = 5

Key = t.Tuple[str, str]  # namespace, name


class PullSecretError(ClusterError):
    """What cannot be done; the message is a sentence for the user, without a password."""


def named(key: Key) -> str:
    return "/".join(key)


def check(owner: Owner, secrets: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """The secrets, each with a name.

    :raises PullSecretError: for what no cluster can hold; asks none.
    """
    for secret in secrets:
        secret = {**secret, "name": secret["name"] or owner.short}
        name, user = secret["name"], secret["username"]
        if len(name) > 63 or not NAME.fullmatch(name):
            raise PullSecretError(
                f"name: '{name}' must have 1 to 63 of a-z, 0-9, '-' and '.', and begin and end with a letter or digit."
                " Example: name: registry-cache"
            )
        try:
            htpasswd.check_user(htpasswd.User(user, secret["password"], True))
        except htpasswd.UserError as error:
            raise PullSecretError(f"users: {error}") from None
        if any(ord(letter) < 32 for letter in secret["password"]):
            raise PullSecretError(
                f"users: the password of user '{user}' holds a line break or another control character. Choose another one"
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
                " (for every namespace, set exclude_namespaces: [])"
            )
        _check_own(owner, secret)
    return [{**secret, "name": secret["name"] or owner.short} for secret in secrets]


def _check_own(owner: Owner, secret: dict[str, t.Any]) -> None:
    """:raises PullSecretError: for labels and annotations that Kubernetes refuses, or that this module sets itself."""
    reserved = {"labels": {*owner.labels, COMPONENT}, "annotations": set(_OF_COPIES)}
    for option, example in (("labels", "{team: a}"), ("annotations", "{example.com/contact: team-a}")):
        for key, value in (secret[option] or {}).items():
            prefix, _slash, name = str(key).rpartition("/")
            if (prefix and (len(prefix) > 253 or not NAME.fullmatch(prefix))) or not _LABEL.fullmatch(name):
                raise PullSecretError(f"{option}: '{key}' is no name of a label or annotation. Example: {option}: {example}")
            if key in reserved[option] or prefix.endswith(PREFIX.rstrip("/")):
                raise PullSecretError(
                    f"{option}: '{key}' is set by this module, which finds its Secrets by it. Choose another name."
                    f" Example: {option}: {example}"
                )
            if not isinstance(value, str) or (option == "labels" and value and not _LABEL.fullmatch(value)):
                limits = " of at most 63 letters, digits, '-', '_' and '.'" if option == "labels" else ""
                raise PullSecretError(f"{option}: the value of '{key}' must be a string{limits}. Example: {option}: {example}")


def content(secret: dict[str, t.Any]) -> str:
    return dockerconfigjson.render(secret["hosts"], secret["username"], secret["password"])


def encoded(secret: dict[str, t.Any]) -> str:
    """The content as the data of a Secret has it."""
    return b64encode(content(secret).encode()).decode()


def source_labels(owner: Owner) -> dict[str, str]:
    """The labels of what a controller reads."""
    return {**owner.labels, COMPONENT: SOURCE}


def metadata(owner: Owner, secret: dict[str, t.Any]) -> dict[str, dict[str, str]]:
    """The labels and annotations of a pull secret."""
    made: dict[str, dict[str, str]] = {"labels": {**(secret["labels"] or {}), **owner.labels}}
    made["annotations"] = {**(secret["annotations"] or {})}
    made["annotations"].update({name: ",".join(sorted(secret[option])) for option, name in _ADDED.items() if secret[option]})
    return made


# By identity: removing one of two equal ones from a list would be an accident.
@dataclasses.dataclass(eq=False)
class Change:
    """What is to be written of one Secret."""

    key: Key
    action: str  # create, update, remove or keep
    uid: str | None
    content: str | None
    metadata: dict[str, dict[str, t.Any]]
    before: str | None
    after: str | None


@dataclasses.dataclass(eq=False)
class Binding:
    """What is to be written of one service account."""

    key: Key
    wanted: set[str]
    attach: list[str]
    detach: list[str]
    # Wanted Secrets that could not be created.
    lacking: t.Collection[str] = ()


class Plan:
    """What the cluster has and what is wanted of it. Raises PullSecretError if that cannot be done.

    After C(write), C(changes) and C(bindings) are what was written. C(forbidden) are the namespaces that refused, each with its
    answer; only with C(skip_forbidden).
    """

    def __init__(
        self,
        api: Client,
        owner: Owner,
        secrets: list[dict[str, t.Any]],
        sources: t.Collection[str] = (),
        search: t.Collection[str] = (),
        skip_forbidden: bool = False,
    ) -> None:
        """:param secrets: as C(check) returns them.
        :param sources: names of the Secrets in the owner's namespace that a controller copies, which are no pull secrets.
        :param search: more namespaces to look into where Secrets of all namespaces may not be listed.
        """
        self._api, self._owner, self._sources, self._skip = api, owner, sources, skip_forbidden
        self.warnings: list[str] = []
        self.forbidden: dict[str, str] = {}
        # Where to look, one by one; None is everywhere at once.
        self._places: list[str] | None = None
        ours, foreign, wanted = self._read(secrets, search)
        ours = {key: found for key, found in ours.items() if key[0] != owner.namespace or key[1] not in sources}
        if refused := sorted((set(wanted) & set(foreign)) - set(ours)):
            raise PullSecretError(
                f"name: there is another Secret {some(named(key) + manager(foreign[key]) for key in refused)}, which is not a pull"
                f" secret of cache {owner.namespace}/{owner.name}. Delete it, or choose another name."
                " Example: name: registry-cache-pull"
            )
        self.bindings = self._read_bindings(ours, wanted)
        wanted = {key: secret for key, secret in wanted.items() if key[0] not in self.forbidden}
        ours = {key: found for key, found in ours.items() if key[0] not in self.forbidden}
        self.changes = [self._change(key, ours.get(key), wanted.get(key)) for key in sorted({*ours, *wanted})]

    def _read(self, secrets: list[dict[str, t.Any]], search: t.Collection[str]) -> tuple[t.Any, ...]:
        names = sorted({secret["name"] for secret in secrets})
        selectors = sorted({secret["namespace_selector"] for secret in secrets} - {None})
        tasks: list[t.Callable[[], t.Any]] = [
            functools.partial(self._read_namespaces, secrets),
            functools.partial(self._read_secrets, names, None),
        ]
        tasks += [functools.partial(self._select, selector) for selector in selectors]
        namespaces, found, *selected = self._api.each(tasks)
        wanted = self._wanted(secrets, namespaces, dict(zip(selectors, selected)))
        if not isinstance(found, ApiError):
            return (*found, wanted)
        # Rights in some namespaces only.
        self._places = sorted({*search, *(namespace for namespace, _name in wanted)})
        if not self._places:
            raise PullSecretError(
                f"The cluster does not list its secrets ({found.words}). Use an identity that may list secrets in all namespaces,"
                " or name the namespaces to look into. Example: namespaces: [default]"
            ) from found
        self.warnings.append(
            f"Secrets can be listed in some namespaces only ({found.words}): pull secrets of this cache elsewhere than in"
            f" {some(self._places)} stay. To have them removed, name their namespaces, or use an identity that may list all."
        )
        ours: dict[Key, t.Any] = {}
        foreign: dict[Key, t.Any] = {}
        read = self._api.each([functools.partial(self._read_secrets, names, place) for place in self._places])
        for place, result in zip(self._places, read):
            if isinstance(result, ApiError):
                self._refuse(place, "its Secrets cannot be listed", result)
            else:
                ours.update(result[0])
                foreign.update(result[1])
        return ours, foreign, wanted

    def _refuse(self, namespace: str, what: str, error: ApiError) -> None:
        """Leave a namespace out, or end here."""
        if not self._skip:
            raise PullSecretError(
                f"namespaces: namespace {namespace} is forbidden: {what} ({error.words}). Grant it, take the namespace from the list,"
                " or leave out what is forbidden. Example: skip_forbidden: true"
            ) from error
        self.forbidden.setdefault(namespace, f"{what} ({error.words})")

    def _read_secrets(self, names: list[str], namespace: str | None) -> t.Any:
        """Ours, and the metadata of all of these names, or the answer of an API server that forbids it."""
        mark = f"{self._owner.selector},{COMPONENT}!={SOURCE}"
        try:
            marked = self._list("secrets", namespace=namespace, label_selector=mark, field_selector=f"type={TYPE}")
            # The content of what others made is none of ours.
            read = functools.partial(self._list, "secrets", metadata_only=True, namespace=namespace)
            tasks = [functools.partial(read, field_selector=f"metadata.name={name}") for name in names]
            others = [task() for task in tasks] if namespace else self._api.each(tasks)
        except ForbiddenError as error:
            return error
        copies = {_key(item): item for items in others for item in items if self._is_copy(item)}
        return (
            {**copies, **{_key(item): item for item in marked}},
            {_key(item): item["metadata"] for items in others for item in items},
        )

    def _is_copy(self, item: dict[str, t.Any]) -> bool:
        """Whether reflector made it of a source of ours."""
        source = (item["metadata"].get("annotations") or {}).get(_OF_COPIES[0])
        name = item["metadata"]["name"]
        return name in self._sources and source == f"{self._owner.namespace}/{name}"

    def _list(self, kind: str, **options: t.Any) -> list[dict[str, t.Any]]:
        try:
            return self._api.list_all(kind, **options)
        except ApiError as error:
            if error.status != 401:
                raise
            raise PullSecretError(
                f"The cluster does not list its {kind} ({error.words}). Use an identity that may list {kind} in all namespaces"
            ) from error

    def _read_namespaces(self, secrets: list[dict[str, t.Any]]) -> dict[str, bool]:
        """Of each namespace that was asked for, whether it stays."""
        if not any(map(_needs_all, secrets)):
            return {}
        try:
            items = self._list("namespaces", metadata_only=True)
        except ForbiddenError as error:
            if any(secret["exclude_namespaces"] is not None for secret in secrets):
                raise _no_namespaces(error) from error
            named_ones = sorted({name for secret in secrets for name in secret["namespaces"] or ()})
            items = list(filter(None, self._api.each([functools.partial(self._read_namespace, name) for name in named_ones])))
        return {item["metadata"]["name"]: "deletionTimestamp" not in item["metadata"] for item in items}

    def _read_namespace(self, name: str) -> dict[str, t.Any] | None:
        try:
            return self._api.get(f"/api/v1/namespaces/{name}")
        except ForbiddenError:
            # Whether it is there shows when it is written to.
            return {"metadata": {"name": name}}

    def _select(self, selector: str) -> list[str]:
        try:
            items = self._list("namespaces", metadata_only=True, label_selector=selector)
        except ApiError as error:
            if error.status == 403:
                raise _no_namespaces(error) from error
            if error.status != 400:
                raise
            raise PullSecretError(
                f"namespace_selector: '{selector}' is no label selector ({error.words}). Example: namespace_selector: team=a"
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
                    f"namespaces: namespace {some(leaving)} is being deleted. Take it from the list, or run again when it is there anew"
                )
            if secret["namespaces"] is not None:
                matching = secret["namespaces"]
            elif secret["namespace_selector"] is not None:
                matching = selected[secret["namespace_selector"]]
            else:
                matching = [name for name, there in namespaces.items() if there and name not in secret["exclude_namespaces"]]
            for namespace in matching:
                other = wanted.setdefault((namespace, secret["name"]), secret)
                if other is not secret:
                    raise PullSecretError(
                        f"name: users '{other['username']}' and '{secret['username']}' would both have Secret {secret['name']}"
                        f" in namespace {namespace}. Give one of them another name or other namespaces"
                    )
        return wanted

    def _read_bindings(self, ours: dict[Key, t.Any], wanted: dict[Key, dict[str, t.Any]]) -> list[Binding]:
        """The changes of service accounts."""
        names: dict[Key, set[str]] = {}
        for (namespace, name), secret in wanted.items():
            for account in secret["service_accounts"] if namespace not in self.forbidden else ():
                names.setdefault((namespace, account), set()).add(name)
        self._accounts = {_key(item): item for item in self._read_accounts(names, {namespace for namespace, _name in ours})}
        missing: dict[str, list[str]] = {}
        for namespace, account in names.keys() - self._accounts.keys():
            if namespace not in self.forbidden:
                missing.setdefault(account, []).append(namespace)
        for account, where in sorted(missing.items()):
            self.warnings.append(f"service_accounts: there is no {account} in {some(where)}; once it is there, run again.")
        bindings = []
        for key, found in sorted(self._accounts.items()):
            if key[0] not in self.forbidden:
                attach, detach = self._differing(found, names.get(key, set()))
                if attach or detach:
                    bindings.append(Binding(key, names.get(key, set()), attach, detach))
        return bindings

    def _read_accounts(self, names: t.Collection[Key], places: set[str]) -> list[dict[str, t.Any]]:
        """All service accounts, or where none are wanted, those with a record of ours."""
        options = {} if names else {"label_selector": self._attached}
        refused: ApiError | None = None
        if self._places is None:
            try:
                return self._list("serviceaccounts", **options)
            except ForbiddenError as error:
                refused = error
        of_names = {namespace for namespace, _account in names}
        places = {*(self._places or ()), *places, *of_names} - set(self.forbidden)

        def read(namespace: str) -> t.Any:
            try:
                return self._list("serviceaccounts", namespace=namespace, **options)
            except ForbiddenError as error:
                return error

        found: list[dict[str, t.Any]] = []
        for namespace, result in zip(sorted(places), self._api.each([functools.partial(read, place) for place in sorted(places)])):
            if not isinstance(result, ApiError):
                found += result
            elif namespace in of_names:
                self._refuse(namespace, "its service accounts cannot be listed", result)
            else:
                refused = result
        if refused:
            self.warnings.append(
                f"Service accounts can be listed in some namespaces only ({refused.words}): entries that an earlier run made in others"
                " stay."
            )
        return found

    @property
    def _attached(self) -> str:
        return _ATTACHED + self._owner.short

    def _differing(self, account: dict[str, t.Any], wanted: set[str]) -> tuple[list[str], list[str]]:
        """The names to attach to a service account and to detach. What somebody else attached stays theirs."""
        held = {entry.get("name", "") for entry in account.get("imagePullSecrets") or ()}
        return sorted(wanted - held), sorted(self._recorded(account) - wanted)

    def _recorded(self, account: dict[str, t.Any]) -> set[str]:
        annotations = account["metadata"].get("annotations") or {}
        return set(filter(None, annotations.get(self._attached, "").split(",")))

    def _change(self, key: Key, found: t.Any, secret: dict[str, t.Any] | None) -> Change:
        uid = found["metadata"]["uid"] if found else None
        before = f"{named(key)}: {', '.join(dockerconfigjson.hosts(_decoded(found)))}" if found else None
        if secret is None:
            return Change(key, "remove", uid, None, {}, before, None)
        text, made = content(secret), metadata(self._owner, secret)
        after = f"{named(key)}: {', '.join(sorted(set(secret['hosts'])))}"
        if found is None:
            return Change(key, "create", uid, text, made, before, after)
        replaced = _decoded(found) != text
        differing = {option: _differing_keys(found["metadata"], option, values) for option, values in made.items()}
        action = "update" if replaced or any(differing.values()) else "keep"
        if action == "update" and before == after:
            after += " (credential replaced)" if replaced else " (labels or annotations replaced)"
        return Change(key, action, uid, text, differing, before, after)

    def discard(self) -> None:
        """Forget what was to be written."""
        self.changes, self.bindings = [], []

    def write(self) -> list[str]:
        """Write what differs; returns the problem of each object that could not be written."""
        needed: dict[str, tuple[list[Change], list[Binding]]] = {}
        for change in self.changes:
            if change.action != "keep":
                needed.setdefault(change.key[0], ([], []))[0].append(change)
        for binding in self.bindings:
            needed.setdefault(binding.key[0], ([], []))[1].append(binding)
        written = self._api.each([functools.partial(self._write_namespace, *todo) for todo in needed.values()])
        return [failure for failures in written for failure in failures]

    def _write_namespace(self, changes: list[Change], bindings: list[Binding]) -> list[str]:
        """Write what differs in one namespace. In this order no service account names a Secret that is still to come, or has gone."""
        failures: list[str] = []
        lacking: set[str] = set()
        for change in changes:
            if change.action == "remove":
                continue
            if not self._try(failures, change, functools.partial(self._write, change)) and change.action == "create":
                lacking.add(change.key[1])
        for binding in bindings:
            binding.lacking = lacking
            self._try(failures, binding, functools.partial(self._bind, binding))
        for change in changes:
            if change.action == "remove":
                self._try(failures, change, functools.partial(self._write, change))
        return failures

    def _try(self, failures: list[str], item: Change | Binding, write: t.Callable[[], None]) -> bool:
        """Whether it was written. What was not is no change."""
        namespace = item.key[0]
        what = f"{'Secret' if isinstance(item, Change) else 'Service account'} {named(item.key)} could not be written"
        try:
            write()
            return True
        except ApiError as error:
            if is_leaving(error):
                text = f"Namespace {namespace} is being deleted: it was left out."
                if text not in self.warnings:
                    self.warnings.append(text)
            elif error.status == 403 and self._skip:
                self.forbidden.setdefault(namespace, f"{what} ({error.words})")
            else:
                hint = "; somebody else changed it meanwhile" if error.status == 409 else ""
                failures.append(f"{what} ({error.words}{hint})")
        except UnreachableError as error:
            failures.append(f"{what} ({error.words})")
        if isinstance(item, Change):
            self.changes.remove(item)
        else:
            self.bindings.remove(item)
        return False

    def _write(self, change: Change) -> None:
        namespace, name = change.key
        path = f"/api/v1/namespaces/{namespace}/secrets"
        data = {KEY: b64encode(change.content.encode()).decode()} if change.content is not None else None
        if change.action == "create":
            made = {"name": name, **{option: values for option, values in change.metadata.items() if values}}
            body: dict[str, t.Any] = {"apiVersion": "v1", "kind": "Secret", "type": TYPE, "metadata": made, "data": data}
            self._api.request("post", path, body, field_manager="registry-cache")
        elif change.action == "update":
            # The uid keeps another Secret that took this one's name meanwhile as it is.
            body = {"metadata": {**change.metadata, "uid": change.uid}, "data": data}
            self._api.request("patch", f"{path}/{name}", body, **PATCH)
        else:
            self._api.delete(f"{path}/{name}", change.uid)

    def _bind(self, binding: Binding) -> None:
        """Bring our entries of a service account to what is wanted; the others stay, whoever writes at the same time."""
        path = "/api/v1/namespaces/{}/serviceaccounts/{}".format(*binding.key)
        found = self._accounts[binding.key]
        for attempt in range(1, _TRIES + 1):
            attach, binding.detach = self._differing(found, binding.wanted)
            binding.attach = [name for name in attach if name not in binding.lacking]
            if not binding.attach and not binding.detach:
                return
            # Atomic in a service account, other than in a pod: no patch adds one entry.
            entries = [entry for entry in found.get("imagePullSecrets") or () if entry.get("name") not in binding.detach]
            entries += [{"name": name} for name in binding.attach]
            record = sorted(self._recorded(found) & binding.wanted | set(binding.attach))
            made = {
                "resourceVersion": found["metadata"]["resourceVersion"],
                "labels": {self._attached: "true" if record else None},
                # In the same write as the entries, so that it always says what is so.
                "annotations": {self._attached: ",".join(record) or None},
            }
            try:
                self._api.request("patch", path, {"metadata": made, "imagePullSecrets": entries}, **PATCH)
                return
            except (NotFoundError, ConflictError):
                if attempt == _TRIES:
                    raise
            found = self._api.get(path)
            if found is None:
                # It went meanwhile.
                binding.attach, binding.detach = [], []
                return


def _no_namespaces(error: ApiError) -> PullSecretError:
    return PullSecretError(
        f"The cluster does not list its namespaces ({error.words}). Use an identity that may list namespaces, or name them."
        " Example: namespaces: [default]"
    )


def _differing_keys(found: dict[str, t.Any], option: str, wanted: dict[str, str]) -> dict[str, str | None]:
    """What a merge patch changes of the labels or annotations of a Secret of ours."""
    held = found.get(option) or {}
    added = (found.get("annotations") or {}).get(_ADDED[option], "")
    dropped = [*filter(None, added.split(","))]
    if option == "annotations":
        # Without these it is no copy: reflector leaves it alone.
        dropped += [*_OF_COPIES, *_ADDED.values()]
    changed: dict[str, str | None] = {key: None for key in dropped if key in held and key not in wanted}
    changed.update({key: value for key, value in wanted.items() if held.get(key) != value})
    return changed


def _needs_all(secret: dict[str, t.Any]) -> bool:
    return bool(secret["namespaces"]) or secret["exclude_namespaces"] is not None


def _key(item: dict[str, t.Any]) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _decoded(found: dict[str, t.Any]) -> str:
    return b64decode((found.get("data") or {}).get(KEY, "")).decode(errors="replace")


# Where a user has a pull secret: of the user or of all, one of these.
PLACES = ("namespaces", "namespace_selector", "exclude_namespaces")


def of_users(params: dict[str, t.Any], held: t.Mapping[str, t.Any], unmade: str | None) -> list[dict[str, t.Any]]:
    """The pull secrets of the users, as C(check) takes them. Users without namespaces have none.

    :param params: the options of module pull_secrets.
    :param held: the credentials in force by user, as C(users.Passwords) holds them. They precede the given passwords, which replicas
        may not know yet.
    :param unmade: what stands for a password that is still to be made; None refuses users without one.
    :raises PullSecretError: for users without a password.
    """
    made, unknown = [], []
    everybody = {place: params[place] for place in PLACES if params[place] is not None} or {"namespaces": []}
    for user in params["users"] or ():
        own = user["pull_secret"] or {}
        where = {place: own[place] for place in PLACES if own.get(place) is not None} or everybody
        if where == {"namespaces": []}:
            continue
        now = held.get(user["name"], {}).get("now", {})
        # An empty password is given too, and is refused as such.
        password = next((one["password"] for one in (now, user) if one.get("password") is not None), unmade)
        if password is None:
            unknown.append(user["name"])
        made.append(
            {
                **dict.fromkeys(PLACES),
                **where,
                "name": own.get("name") or params["name"],
                "hosts": params["hosts"],
                "user": user["name"],
                "username": now.get("name", user["name"]),
                "password": password,
                "service_accounts": own.get("service_accounts") or params["service_accounts"],
                "labels": params["labels"],
                "annotations": params["annotations"],
            }
        )
    if unknown:
        raise PullSecretError(
            f"users: user {', '.join(unknown)} has no password, and the cache has none in force. Let module cache_users (role cache) make"
            " it first, or set it. Example: users: [{name: nodes, password: of-your-vault}]"
        )
    return made


def named_namespaces(params: dict[str, t.Any]) -> list[str]:
    """Every namespace that the options of module pull_secrets name."""
    named = [*(params["namespaces"] or ())]
    for user in params["users"] or ():
        named += (user["pull_secret"] or {}).get("namespaces") or ()
    return sorted(set(named))


def is_leaving(error: ApiError) -> bool:
    """Whether a namespace refuses new objects since it is being deleted, or has gone."""
    causes = {cause.get("reason") for cause in error.details.get("causes") or ()}
    return "NamespaceTerminating" in causes or (error.status == 404 and error.details.get("kind") == "namespaces")
