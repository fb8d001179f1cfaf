# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules for the variables of roles beyond their argument specs: ranges, formats, and combinations of variables.

Private to this collection. Types, choices and required options are only in each role's meta/argument_specs.yml.
"""

from __future__ import annotations

import os
import re
import types
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._google import upstream_repositories
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference

# The variables of a role without the prefix registry_cache_.
Variables = types.SimpleNamespace

PREFIX = "registry_cache_"
NODE_MODES = ("k3s", "containerd")
PLATFORMS = ("linux/amd64", "linux/arm64")
_SIZE_UNITS = {"Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_UPSTREAMS = "[{host: us-central1-docker.pkg.dev, repositories: [my-project/my-repository]}]"
_PROJECT = re.compile(r"([a-z0-9-]+([.][a-z0-9-]+)+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]")
_POOL = re.compile(r"(?!gcp-)[a-z0-9-]{4,32}")
_SERVICE_ACCOUNT = re.compile(r"[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9.-]+\.iam\.gserviceaccount\.com")
_BCRYPT = re.compile(r"[$]2[aby][$](0[4-9]|1[0-7])[$][./A-Za-z0-9]{53}")
_TAG_OR_DIGEST = re.compile(r"@|:[^/]*$")
_AUTH_KINDS = ("accesstoken", "application", "machineaccount", "serviceaccount")
# Maximum length of a Google subject, in bytes.
_MAX_SUBJECT = 127


class Rule(t.NamedTuple):
    """A condition that variables must meet, with the message for the user if they do not."""

    variable: str
    holds: t.Callable[[Variables], t.Any]
    # What is wrong, and the fix.
    problem: str | t.Callable[[Variables], str]
    # A valid value of the variable.
    example: str

    def sentence(self, variables: Variables) -> str:
        problem = self.problem if isinstance(self.problem, str) else self.problem(variables)
        name = PREFIX + self.variable
        return f"{name}: {problem}. Example: {name}: {self.example}"


def _full(pattern: str | re.Pattern[str], value: t.Any) -> bool:
    return re.fullmatch(pattern, str(value or "")) is not None


def _seconds(variable: str, lowest: int, highest: int, example: int, problem: str) -> Rule:
    return Rule(variable, lambda v: lowest <= getattr(v, variable) <= highest, problem, str(example))


def _one_upstream(v: Variables) -> bool:
    found = v.upstreams or []
    return len(found) == 1 and bool(found[0].get("host") and found[0].get("repositories"))


def _size_bytes(v: Variables) -> int:
    """Return the size in bytes, or 0 if it is invalid."""
    found = re.fullmatch(r"([1-9][0-9]*)(Mi|Gi|Ti)", str(v.size))
    return int(found[1]) * _SIZE_UNITS[found[2]] if found else 0


def _file(variable: str, example: str) -> Rule:
    def is_file(v: Variables) -> bool:
        path = getattr(v, variable)
        return not path or os.path.isfile(os.path.expanduser(path))

    return Rule(variable, is_file, lambda v: f"file {getattr(v, variable)} does not exist on the host that runs this playbook", example)


def _hashes(v: Variables) -> list[t.Any]:
    return [user["hash"] for user in v.users if "hash" in user]


def _has_known_password(user: t.Mapping[str, t.Any]) -> bool:
    """Return whether the inventory or role cache knows the user's password."""
    return "password" in user or "hash" not in user


def reads(upstream: t.Mapping[str, t.Any], image: str) -> bool:
    """Return whether an image is in one of the repositories of an upstream."""
    paths = "|".join(re.escape(path.replace(":", "/")) for path in upstream["repositories"])
    return _full(rf"{re.escape(upstream['host'])}/({paths})/[a-z0-9][a-z0-9._/-]*([:@].+)?", image)


def _can_verify_image(v: Variables) -> bool:
    return not v.verify_image or not _one_upstream(v) or reads(v.upstreams[0], v.verify_image)


def _is_reference(v: Variables) -> bool:
    try:
        reference.parse(str(v.image))
    except ValueError:
        return False
    return True


def _malformed_upstream(v: Variables) -> str:
    """Return what is wrong with the hosts and repositories of the upstreams, or an empty string."""
    try:
        upstream_repositories.repositories(v.upstreams)
    except ValueError as error:
        return str(error)
    return ""


def google_subject(v: Variables) -> str:
    """Return the Google subject of the cache's service account. It includes the provider, so that clusters never share a grant."""
    return f"{v.wif_provider}:system:serviceaccount:{v.namespace}:{v.name}"


def _places(v: Variables) -> list[str]:
    """Return the variables that choose the namespaces of the pull secret."""
    given = {
        "namespaces": v.pull_secret_namespaces,
        "namespace_selector": v.pull_secret_namespace_selector,
        "exclude_namespaces": v.pull_secret_exclude_namespaces is not None,
    }
    return [name for name, value in given.items() if value]


def _without_password(v: Variables, only_hash: bool = False) -> str:
    """Return the names of users with a pull secret whose password is not in the inventory, separated by commas."""
    found = []
    for user in v.users:
        own = {key: value for key, value in (user.get("pull_secret") or {}).items() if value is not None}
        if "namespaces" in own:
            has_one = bool(own["namespaces"])
        else:
            has_one = bool({"namespace_selector", "exclude_namespaces"} & own.keys() or _places(v))
        if has_one and not user.get("password") and ("hash" in user or not only_hash):
            found.append(user["name"])
    return ", ".join(found)


_HELPER = Rule(
    "image_helper",
    lambda v: v.image_mode != "stock" or v.image_helper,
    lambda v: (
        "must name an image that contains docker-credential-gcr and cp, because registry_cache_image_mode is stock. Set"
        f" registry_cache_image_helper_path if the helper is not at {v.image_helper_path}"
    ),
    "gcr.io/kaniko-project/executor:v1.24.0-debug",
)
_CA_BUNDLE = _file("ca_bundle", "/etc/ssl/certs/company-ca.pem")

# By role: rules for every state.
ALWAYS: dict[str, tuple[Rule, ...]] = {
    "cache": (
        Rule(
            "namespace",
            lambda v: _full(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", v.namespace),
            "must have 1 to 63 characters (a-z, 0-9, '-'), and must not begin or end with '-'",
            "registry-cache",
        ),
        Rule(
            "name",
            lambda v: _full(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?", v.name),
            "must have 1 to 52 characters (a-z, 0-9, '-'), begin with a letter and not end with '-'",
            "registry-cache",
        ),
    ),
}

# By role: whether it creates objects, or removes objects that its variables name.
ACTIVE: dict[str, t.Callable[[Variables], bool]] = {
    "cache": lambda v: v.state == "present",
    "image": lambda v: True,
    "pull_secret": lambda v: v.pull_secret_state == "present",
    "wif": lambda v: v.wif_state == "present" or v.wif_manage,
}

# By role: rules that apply while the role is active.
RULES: dict[str, tuple[Rule, ...]] = {
    "cache": (
        Rule("upstreams", _one_upstream, "must contain exactly one upstream, with its repositories", _UPSTREAMS),
        Rule(
            "auth_none_confirmed",
            lambda v: v.auth != "none" or v.auth_none_confirmed,
            "with registry_cache_auth: none, anyone who can reach the NodePort may pull every image that the cache can read. Confirm this"
            " with true, or set registry_cache_auth: htpasswd",
            "true",
        ),
        Rule(
            "users",
            lambda v: v.auth == "none" or (v.users and all(_full(r"[^:#\s][^:\s]*", user["name"]) for user in v.users)),
            "must contain at least one user. A name must not contain a colon or a space, or begin with '#'",
            "[{name: nodes, password: of-your-vault}]",
        ),
        Rule(
            "users",
            lambda v: v.auth == "none" or all(user[key] for user in v.users for key in ("password", "hash") if key in user),
            "a password or hash is empty. Set it, or remove both to have a password generated",
            "[{name: nodes}]",
        ),
        Rule(
            "users",
            lambda v: v.auth == "none" or all(not one or _full(_BCRYPT, one) for one in _hashes(v)),
            "a hash must be bcrypt with a cost from 4 to 17, as registries accept no other. `htpasswd -nB USER` prints it after the colon",
            "[{name: ci, hash: '$2y$10$...'}]",
        ),
        Rule(
            "users",
            lambda v: v.auth == "none" or not v.verify_image or not v.users or any(map(_has_known_password, v.users)),
            "registry_cache_verify_image needs a user with a known password, but all users have only a hash. Set the password in addition"
            " to a hash, or leave registry_cache_verify_image empty",
            "[{name: nodes, password: of-your-vault}]",
        ),
        _HELPER,
        Rule("replicas", lambda v: v.replicas is None or v.replicas >= 1, "must be a whole number of at least 1, or empty", "3"),
        Rule(
            "node_port",
            lambda v: 30000 <= v.node_port <= 32767,
            "must be in the cluster's NodePort range, 30000 to 32767 by default",
            "30026",
        ),
        Rule(
            "service_name",
            lambda v: not v.service_name or _full(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", v.service_name),
            "must have 1 to 63 of a-z, 0-9 and '-', begin with a letter and not end with '-'",
            "cncf-registry-service",
        ),
        Rule("token_seconds", lambda v: v.token_seconds >= 600, "must be at least 600, the minimum lifetime of a Kubernetes token", "3600"),
        Rule("size", lambda v: _size_bytes(v) >= 64 << 20, "must be a whole number with the unit Mi, Gi or Ti, and at least 64Mi", "20Gi"),
        _seconds("tag_ttl", 1, 86400, 1, "must be a number of seconds from 1 to 86400"),
        _seconds("drain_seconds", 1, 3600, 60, "must be a number of seconds from 1 to 3600"),
        _seconds("rotate_grace", 0, 2592000, 300, "must be a number of seconds from 0 to 2592000 (30 days)"),
        Rule("rotate_timeout", lambda v: v.rotate_timeout >= 1, "must be a number of seconds of at least 1", "300"),
        Rule(
            "prometheus_operator",
            lambda v: not v.prometheus_operator or (v.image_mode != "stock" and v.metrics),
            "needs registry_cache_metrics: true, and an image with metrics, which registry_cache_image_mode: stock does not have",
            "false",
        ),
        _CA_BUNDLE,
        Rule(
            "verify_image",
            _can_verify_image,
            lambda v: f"must be an image in one of the repositories of registry_cache_upstreams (got '{v.verify_image}')",
            "us-central1-docker.pkg.dev/my-project/my-repository/my-image:1.0",
        ),
    ),
    "wif": (
        Rule(
            "upstreams",
            _one_upstream,
            "must contain exactly one upstream, with its repositories. With registry_cache_wif_state: absent, their grants are removed",
            _UPSTREAMS,
        ),
        Rule("upstreams", lambda v: not _one_upstream(v) or not _malformed_upstream(v), _malformed_upstream, _UPSTREAMS),
        Rule(
            "wif_project",
            lambda v: not v.wif_manage or _full(_PROJECT, v.wif_project),
            "must be the ID of the project with the pool: 6 to 30 characters (a-z, 0-9, '-'), after the domain if it has one",
            "my-project",
        ),
        Rule(
            "wif_project_number",
            lambda v: v.wif_state == "absent" or v.wif_manage or v.wif_project_number,
            "is required with registry_cache_wif_manage: false",
            '"123456789012"',
        ),
        Rule(
            "wif_pool",
            lambda v: _full(_POOL, v.wif_pool),
            "must have 4 to 32 characters (a-z, 0-9, '-'), and must not begin with 'gcp-'",
            "registry-cache",
        ),
        Rule(
            "wif_provider",
            lambda v: _full(_POOL, v.wif_provider),
            "must have 4 to 32 characters (a-z, 0-9, '-'), and must not begin with 'gcp-'",
            "my-cluster",
        ),
        Rule(
            "wif_provider",
            lambda v: v.wif_state == "absent" or len(google_subject(v)) <= _MAX_SUBJECT,
            lambda v: (
                "is too long in combination with registry_cache_namespace and registry_cache_name: at most 127 bytes are allowed for"
                f" '{google_subject(v)}' (got {len(google_subject(v))}). Shorten one of the three"
            ),
            "my-cluster",
        ),
        Rule(
            "wif_service_account",
            lambda v: not v.wif_service_account or _full(_SERVICE_ACCOUNT, v.wif_service_account),
            "must be the email address of a Google service account",
            "registry-cache@my-project.iam.gserviceaccount.com",
        ),
        Rule(
            "wif_service_account",
            lambda v: v.wif_state == "absent" or not v.wif_create_service_account or v.wif_service_account,
            "must be the email address of the account to create, because registry_cache_wif_create_service_account is true",
            "registry-cache@my-project.iam.gserviceaccount.com",
        ),
        Rule(
            "gcp_auth_kind",
            # Not a choice in the argument specs, where ansible-core rejects an empty variable.
            lambda v: not v.gcp_auth_kind or v.gcp_auth_kind in _AUTH_KINDS,
            f"must be one of {', '.join(_AUTH_KINDS)}, or empty to use the environment",
            "application",
        ),
    ),
    "image": (
        Rule("image", lambda v: v.image_mode == "stock" or v.image, "must name the image of the cache", "ghcr.io/acme/registry-cache"),
        Rule(
            "image",
            lambda v: v.image_mode == "stock" or not v.image or _is_reference(v),
            lambda v: f"must be an image reference (got '{v.image}')",
            "ghcr.io/acme/registry-cache",
        ),
        Rule(
            "image",
            lambda v: v.image_mode != "build" or not _TAG_OR_DIGEST.search(v.image or ""),
            lambda v: f"must have no tag, because a build creates its own tag (got '{v.image}')",
            "ghcr.io/acme/registry-cache",
        ),
        Rule(
            "image",
            lambda v: v.image_mode != "published" or not v.image or _TAG_OR_DIGEST.search(v.image),
            lambda v: f"must have a tag or digest, because registry_cache_image_mode is published (got '{v.image}')",
            "ghcr.io/acme/registry-cache:1.0",
        ),
        Rule(
            "image",
            lambda v: (
                v.image_mode == "stock"
                or v.image_pull_secrets
                or (v.image or "").split("/")[0] not in [upstream["host"] for upstream in v.upstreams]
            ),
            lambda v: (
                f"{v.image} is on an upstream that needs a credential, so the cache cannot pull its own image. Use a registry from which"
                " the cluster pulls anonymously, or name a pull secret of the cache's namespace in registry_cache_image_pull_secrets"
            ),
            "ghcr.io/acme/registry-cache",
        ),
        _HELPER,
        Rule(
            "image_platforms",
            lambda v: set(v.image_platforms) <= set(PLATFORMS),
            lambda v: f"must contain only {' and '.join(PLATFORMS)} (got {', '.join(v.image_platforms)})",
            f"[{', '.join(PLATFORMS)}]",
        ),
        Rule(
            "image_archive_path",
            lambda v: v.image_publish != "archive" or v.image_archive_path,
            "must name a directory, because registry_cache_image_publish is archive",
            "/srv/images",
        ),
        Rule(
            "image_nodes",
            lambda v: v.image_publish not in NODE_MODES or v.image_nodes,
            lambda v: (
                f"must name the hosts that receive the image, because registry_cache_image_publish is {v.image_publish}. Add them to the"
                " group registry_cache_nodes of the inventory, or name them"
            ),
            "[node-1, node-2]",
        ),
        Rule(
            "image_password",
            lambda v: not v.image_username or v.image_password,
            "is required with registry_cache_image_username",
            "of-your-vault",
        ),
        Rule(
            "image_auth_file",
            lambda v: not v.image_username or not v.image_auth_file,
            "must not be set together with registry_cache_image_username. Set one of them",
            "~/.docker/config.json",
        ),
        _file("image_auth_file", "~/.docker/config.json"),
        _CA_BUNDLE,
    ),
    "pull_secret": (
        Rule(
            "pull_secret_namespaces",
            lambda v: len(_places(v)) <= 1,
            "must not be set together with registry_cache_pull_secret_namespace_selector or registry_cache_pull_secret_exclude_namespaces."
            " Set one of them",
            "[default]",
        ),
        Rule(
            "users",
            lambda v: not _without_password(v, only_hash=True),
            lambda v: (
                f"user {_without_password(v, only_hash=True)} has only a hash, but a pull secret needs the password. Set the password in"
                " addition to the hash, or give the user no pull secret"
            ),
            "[{name: ci, hash: '$2y$10$...', pull_secret: {namespaces: []}}]",
        ),
        Rule(
            "users",
            # Without authentication, role cache generates no passwords.
            lambda v: v.auth != "none" or not _without_password(v),
            lambda v: (
                f"user {_without_password(v)} has a pull secret but no password, and with registry_cache_auth: none no password is"
                " generated. Set a password, remove the user, set registry_cache_auth: htpasswd, or give the user no pull secret"
            ),
            "[{name: team-a, pull_secret: {namespaces: []}}]",
        ),
    ),
}


def broken(role: str, variables: Variables) -> list[str]:
    """Return a message for each rule of a role that its variables do not meet."""
    rules = ALWAYS.get(role, ()) + (RULES[role] if ACTIVE[role](variables) else ())
    return [rule.sentence(variables) for rule in rules if not rule.holds(variables)]
