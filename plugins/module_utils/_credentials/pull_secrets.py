# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pull secrets in many namespaces: existing ones, wanted ones, and the changes between the two.

Private to this collection. Each kind is listed once. Only differences are written, in parallel.
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
# MaxSecretSize in Kubernetes.
MAX_BYTES = 1 << 20
# Annotations of a Secret with the names of the labels and annotations in the options, so that those no longer listed are removed.
_ADDED = {"labels": PREFIX + "added-labels", "annotations": PREFIX + "added-annotations"}
# Prefix of a label and an annotation of a service account, before the owner's short name. The annotation lists attached pull secrets.
_ATTACHED = "attached.registry-cache.pullthrough/"
# Prefix of the annotations of reflector (github.com/emberstack/kubernetes-reflector).
REFLECTOR = "reflector.v1.k8s.emberstack.com/"
_OF_COPIES = tuple(REFLECTOR + name for name in ("reflects", "auto-reflects", "reflected-version", "reflected-at"))
# Component of a Secret that a controller copies. It is not a pull secret itself.
SOURCE = "pull-secret-source"
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_HOST = re.compile(r"([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]+)?")
# How many times to retry the update of a service account after a concurrent change.
_TRIES = 5

Key = t.Tuple[str, str]  # namespace, name


class PullSecretError(ClusterError):
    """Something that cannot be done. The text is a message for the user, without a password."""


def named(key: Key) -> str:
    return "/".join(key)


def check(owner: Owner, secrets: list[dict[str, t.Any]]) -> list[dict[str, t.Any]]:
    """Return the secrets, each with a name. Send no requests.

    :raises PullSecretError: for invalid secrets.
    """
    for secret in secrets:
        secret = {**secret, "name": secret["name"] or owner.short}
        name, user = secret["name"], secret["username"]
        if len(name) > 63 or not NAME.fullmatch(name):
            raise PullSecretError(
                f"name: must have 1 to 63 characters (a-z, 0-9, '-', '.'), and begin and end with a letter or digit (got '{name}')."
                " Example: name: registry-cache"
            )
        try:
            htpasswd.check_user(htpasswd.User(user, secret["password"], True))
        except htpasswd.UserError as error:
            raise PullSecretError(f"users: {error}") from None
        if any(ord(letter) < 32 for letter in secret["password"]):
            raise PullSecretError(
                f"users: the password of user '{user}' contains a line break or another control character. Choose one without them"
            )
        if not secret["hosts"]:
            raise PullSecretError(f"hosts: user '{user}' needs at least one host. Example: hosts: ['localhost:30026']")
        for host in secret["hosts"]:
            if not _HOST.fullmatch(host):
                raise PullSecretError(
                    f"hosts: must each be a host with a port, as in image references (got '{host}'). Example: hosts: ['localhost:30026']"
                )
        if len(content(secret)) > MAX_BYTES:
            raise PullSecretError(
                f"hosts: the pull secret of user '{user}' with {len(secret['hosts'])} hosts is larger than 1 MiB, the limit of Kubernetes."
                " List fewer hosts. Example: hosts: ['localhost:30026']"
            )
        if secret["namespace_selector"] is not None and not secret["namespace_selector"].strip():
            raise PullSecretError(
                "namespace_selector: must not be empty, because it would match all namespaces. To match them all, set"
                " exclude_namespaces: []. Example: namespace_selector: team=a"
            )
        _check_own(owner, secret)
    return [{**secret, "name": secret["name"] or owner.short} for secret in secrets]


def _check_own(owner: Owner, secret: dict[str, t.Any]) -> None:
    """Raise PullSecretError for labels and annotations that Kubernetes refuses or that this module sets itself."""
    reserved = {"labels": {*owner.labels, COMPONENT}, "annotations": set(_OF_COPIES)}
    for option, example in (("labels", "{team: a}"), ("annotations", "{example.com/contact: team-a}")):
        for key, value in (secret[option] or {}).items():
            prefix, _slash, name = str(key).rpartition("/")
            if (prefix and (len(prefix) > 253 or not NAME.fullmatch(prefix))) or not _LABEL.fullmatch(name):
                raise PullSecretError(f"{option}: '{key}' must be a valid name of a label or annotation. Example: {option}: {example}")
            if key in reserved[option] or prefix.endswith(PREFIX.rstrip("/")):
                raise PullSecretError(
                    f"{option}: '{key}' is reserved, because this module finds its Secrets by it. Choose another name."
                    f" Example: {option}: {example}"
                )
            if not isinstance(value, str) or (option == "labels" and value and not _LABEL.fullmatch(value)):
                limits = " of at most 63 letters, digits, '-', '_' and '.'" if option == "labels" else ""
                raise PullSecretError(f"{option}: the value of '{key}' must be a string{limits}. Example: {option}: {example}")


def content(secret: dict[str, t.Any]) -> str:
    return dockerconfigjson.render(secret["hosts"], secret["username"], secret["password"])


def encoded(secret: dict[str, t.Any]) -> str:
    """Return the content as in the data of a Secret."""
    return b64encode(content(secret).encode()).decode()


def source_labels(owner: Owner) -> dict[str, str]:
    """Return the labels of objects that a controller reads."""
    return {**owner.labels, COMPONENT: SOURCE}


def metadata(owner: Owner, secret: dict[str, t.Any]) -> dict[str, dict[str, str]]:
    """Return the labels and annotations of a pull secret."""
    made: dict[str, dict[str, str]] = {"labels": {**(secret["labels"] or {}), **owner.labels}}
    made["annotations"] = {**(secret["annotations"] or {})}
    made["annotations"].update({name: ",".join(sorted(secret[option])) for option, name in _ADDED.items() if secret[option]})
    return made


# Compare by identity, so that list.remove() does not remove an equal object.
@dataclasses.dataclass(eq=False)
class Change:
    """The change of one Secret."""

    key: Key
    action: str  # create, update, remove or keep
    uid: str | None
    content: str | None
    metadata: dict[str, dict[str, t.Any]]
    before: str | None
    after: str | None


@dataclasses.dataclass(eq=False)
class Binding:
    """The change of one service account."""

    key: Key
    wanted: set[str]
    attach: list[str]
    detach: list[str]
    # Names of wanted Secrets that could not be created.
    lacking: t.Collection[str] = ()


class Plan:
    """The changes between the cluster's state and the wanted state. Raises PullSecretError if a change is not possible.

    After C(write), C(changes) and C(bindings) contain what was written. C(forbidden) contains the namespaces that refused, each with
    the error. It is filled only with C(skip_forbidden).
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
        """:param secrets: as returned by C(check).
        :param sources: names of Secrets in the owner's namespace that a controller copies. They are not pull secrets.
        :param search: more namespaces to search if the caller may not list Secrets in all namespaces.
        """
        self._api, self._owner, self._sources, self._skip = api, owner, sources, skip_forbidden
        self.warnings: list[str] = []
        self.forbidden: dict[str, str] = {}
        # Namespaces to search one by one; None for all at once.
        self._places: list[str] | None = None
        ours, foreign, wanted = self._read(secrets, search)
        ours = {key: found for key, found in ours.items() if key[0] != owner.namespace or key[1] not in sources}
        if refused := sorted((set(wanted) & set(foreign)) - set(ours)):
            raise PullSecretError(
                f"name: Secret {some(named(key) + manager(foreign[key]) for key in refused)} already exists, and is not a pull"
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
        # The caller has permissions in some namespaces only.
        self._places = sorted({*search, *(namespace for namespace, _name in wanted)})
        if not self._places:
            raise PullSecretError(
                f"namespaces: the cluster refuses to list all secrets ({found.words}). Use an identity that may list secrets in all"
                " namespaces, or name the namespaces to search. Example: namespaces: [default]"
            ) from found
        self.warnings.append(
            f"The cluster refuses to list all secrets ({found.words}). Pull secrets of this cache in namespaces other than"
            f" {some(self._places)} are kept. To remove them, name their namespaces, or use an identity that may list all secrets."
        )
        ours: dict[Key, t.Any] = {}
        foreign: dict[Key, t.Any] = {}
        read = self._api.each([functools.partial(self._read_secrets, names, place) for place in self._places])
        for place, result in zip(self._places, read):
            if isinstance(result, ApiError):
                self._refuse(place, "cannot list its secrets", result)
            else:
                ours.update(result[0])
                foreign.update(result[1])
        return ours, foreign, wanted

    def _refuse(self, namespace: str, what: str, error: ApiError) -> None:
        """Skip a namespace, or raise PullSecretError."""
        if not self._skip:
            raise PullSecretError(
                f"namespaces: access to namespace {namespace} is forbidden: {what} ({error.words}). Grant the permission, remove the"
                " namespace from the list, or skip such namespaces. Example: skip_forbidden: true"
            ) from error
        self.forbidden.setdefault(namespace, f"{what} ({error.words})")

    def _read_secrets(self, names: list[str], namespace: str | None) -> t.Any:
        """Return our pull secrets, and the metadata of all Secrets with these names, or the error if the API server forbids it."""
        mark = f"{self._owner.selector},{COMPONENT}!={SOURCE}"
        try:
            marked = self._list("secrets", namespace=namespace, label_selector=mark, field_selector=f"type={TYPE}")
            # Do not read the content of other Secrets.
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
        """Return whether reflector copied the Secret from one of our source Secrets."""
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
                f"The cluster refuses to list {kind} ({error.words}). Use an identity that may list {kind} in all namespaces"
            ) from error

    def _read_namespaces(self, secrets: list[dict[str, t.Any]]) -> dict[str, bool]:
        """Return the requested namespaces, each with whether it will stay."""
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
            # A write will show whether the namespace exists.
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
                f"namespace_selector: must be a label selector (got '{selector}': {error.words}). Example: namespace_selector: team=a"
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
                    f"namespaces: namespace {some(missing)} does not exist. Create it, or remove it from the list."
                    " Example: namespaces: [default]"
                )
            if leaving := {name for name in secret["namespaces"] or () if not namespaces[name]}:
                raise PullSecretError(
                    f"namespaces: namespace {some(leaving)} is being deleted. Remove it from the list, or run again when it exists again."
                    " Example: namespaces: [default]"
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
                        f"name: users '{other['username']}' and '{secret['username']}' would both use Secret {secret['name']}"
                        f" in namespace {namespace}. Give one of them another name or other namespaces."
                        " Example: pull_secret: {name: team-a}"
                    )
        return wanted

    def _read_bindings(self, ours: dict[Key, t.Any], wanted: dict[Key, dict[str, t.Any]]) -> list[Binding]:
        """Return the changes of service accounts."""
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
            self.warnings.append(f"service_accounts: {account} does not exist in {some(where)}. Run again when it exists.")
        bindings = []
        for key, found in sorted(self._accounts.items()):
            if key[0] not in self.forbidden:
                attach, detach = self._differing(found, names.get(key, set()))
                if attach or detach:
                    bindings.append(Binding(key, names.get(key, set()), attach, detach))
        return bindings

    def _read_accounts(self, names: t.Collection[Key], places: set[str]) -> list[dict[str, t.Any]]:
        """Return all service accounts, or only those with our label if none are wanted."""
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
                self._refuse(namespace, "cannot list its service accounts", result)
            else:
                refused = result
        if refused:
            self.warnings.append(
                f"The cluster refuses to list all service accounts ({refused.words}). Entries that an earlier run added in other namespaces"
                " are kept."
            )
        return found

    @property
    def _attached(self) -> str:
        return _ATTACHED + self._owner.short

    def _differing(self, account: dict[str, t.Any], wanted: set[str]) -> tuple[list[str], list[str]]:
        """Return the names to attach to a service account, and to detach. Names that somebody else attached are not detached."""
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
        """Discard all changes."""
        self.changes, self.bindings = [], []

    def write(self) -> list[str]:
        """Write the changes; return the problem of each object that could not be written."""
        needed: dict[str, tuple[list[Change], list[Binding]]] = {}
        for change in self.changes:
            if change.action != "keep":
                needed.setdefault(change.key[0], ([], []))[0].append(change)
        for binding in self.bindings:
            needed.setdefault(binding.key[0], ([], []))[1].append(binding)
        written = self._api.each([functools.partial(self._write_namespace, *todo) for todo in needed.values()])
        return [failure for failures in written for failure in failures]

    def _write_namespace(self, changes: list[Change], bindings: list[Binding]) -> list[str]:
        """Write the changes of one namespace, ordered so that no service account names a Secret that does not exist."""
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
        """Write an object; return whether it was written. An object that was not written is removed from the changes."""
        namespace = item.key[0]
        what = f"cannot write {'Secret' if isinstance(item, Change) else 'service account'} {named(item.key)}"
        try:
            write()
            return True
        except ApiError as error:
            if is_leaving(error):
                text = f"Namespace {namespace} is being deleted, and was skipped."
                if text not in self.warnings:
                    self.warnings.append(text)
            elif error.status == 403 and self._skip:
                self.forbidden.setdefault(namespace, f"{what} ({error.words})")
            else:
                hint = ". It was changed by someone else in the meantime" if error.status == 409 else ""
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
            # With the uid, the API server refuses the change if another Secret took the name in the meantime.
            body = {"metadata": {**change.metadata, "uid": change.uid}, "data": data}
            self._api.request("patch", f"{path}/{name}", body, **PATCH)
        else:
            self._api.delete(f"{path}/{name}", change.uid)

    def _bind(self, binding: Binding) -> None:
        """Update our entries in a service account, and keep all others, despite concurrent changes."""
        path = "/api/v1/namespaces/{}/serviceaccounts/{}".format(*binding.key)
        found = self._accounts[binding.key]
        for attempt in range(1, _TRIES + 1):
            attach, binding.detach = self._differing(found, binding.wanted)
            binding.attach = [name for name in attach if name not in binding.lacking]
            if not binding.attach and not binding.detach:
                return
            # In a service account, the list is replaced as a whole: no patch can add one entry.
            entries = [entry for entry in found.get("imagePullSecrets") or () if entry.get("name") not in binding.detach]
            entries += [{"name": name} for name in binding.attach]
            record = sorted(self._recorded(found) & binding.wanted | set(binding.attach))
            made = {
                "resourceVersion": found["metadata"]["resourceVersion"],
                "labels": {self._attached: "true" if record else None},
                # Written together with the entries, so that it is always correct.
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
                # It was deleted in the meantime.
                binding.attach, binding.detach = [], []
                return


def _no_namespaces(error: ApiError) -> PullSecretError:
    return PullSecretError(
        f"namespaces: the cluster refuses to list namespaces ({error.words}). Use an identity that may list namespaces, or name them."
        " Example: namespaces: [default]"
    )


def _differing_keys(found: dict[str, t.Any], option: str, wanted: dict[str, str]) -> dict[str, str | None]:
    """Return the merge patch for the labels or annotations of one of our Secrets."""
    held = found.get(option) or {}
    added = (found.get("annotations") or {}).get(_ADDED[option], "")
    dropped = [*filter(None, added.split(","))]
    if option == "annotations":
        # Without these annotations it is not a copy, so reflector does not change it.
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


# Options that select namespaces. At most one may be set, for one user and for all.
PLACES = ("namespaces", "namespace_selector", "exclude_namespaces")


def of_users(params: dict[str, t.Any], held: t.Mapping[str, t.Any], unmade: str | None) -> list[dict[str, t.Any]]:
    """Return the pull secrets of the users, as C(check) accepts them. Users without namespaces have none.

    :param params: options of module pull_secrets.
    :param held: active credentials by user, from C(users.Passwords). They take precedence over given passwords, which replicas may not
        know yet.
    :param unmade: placeholder for a password that is not generated yet; None to refuse users without a password.
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
        # An empty password counts as given, and is refused later.
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
            f"users: user {', '.join(unknown)} has no password, and the cache has no active one. Create it first with module cache_users"
            " (role cache), or set it. Example: users: [{name: nodes, password: of-your-vault}]"
        )
    return made


def named_namespaces(params: dict[str, t.Any]) -> list[str]:
    """Return all namespaces that the options of module pull_secrets name."""
    named = [*(params["namespaces"] or ())]
    for user in params["users"] or ():
        named += (user["pull_secret"] or {}).get("namespaces") or ()
    return sorted(set(named))


def is_leaving(error: ApiError) -> bool:
    """Return whether an error means that the namespace is being deleted or no longer exists."""
    causes = {cause.get("reason") for cause in error.details.get("causes") or ()}
    return "NamespaceTerminating" in causes or (error.status == 404 and error.details.get("kind") == "namespaces")
