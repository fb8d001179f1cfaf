# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets that reflector copies to namespaces.

Private to this collection. https://github.com/emberstack/kubernetes-reflector
"""

from __future__ import annotations

import re
import typing as t

from .._kubernetes.owner import Owner
from . import pull_secrets
from .pull_secrets import PullSecretError

Object = t.Dict[str, t.Any]


def objects(secrets: list[dict[str, t.Any]], owner: Owner) -> list[Object]:
    """Return the source Secret of each pull secret.

    :param secrets: as returned by pull_secrets.of_users.
    :raises PullSecretError: if reflector does not support a setting.
    """
    names = [secret["name"] for secret in secrets]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise PullSecretError(
            f"controller: several users have a pull secret named {', '.join(twice)}, but reflector needs different names."
            " Give each of them another name. Example: pull_secret: {name: team-a}"
        )
    return [_source(secret, owner) for secret in secrets]


def _source(secret: dict[str, t.Any], owner: Owner) -> Object:
    patterns, namespace = "-", owner.namespace
    if secret.get("namespaces"):
        patterns = ",".join(sorted(secret["namespaces"]))
    elif secret.get("exclude_namespaces") is not None:
        others = sorted(secret["exclude_namespaces"])
        if namespace not in others:
            raise PullSecretError(
                "exclude_namespaces: it must contain the cache's namespace, which contains the Secret that reflector copies."
                f" Example: exclude_namespaces: {[*others, namespace]}"
            )
        patterns = f"(?!(?:{'|'.join(map(re.escape, others))})$).*"
    annotations = {"reflection-allowed": "true", "reflection-auto-enabled": "true"}
    for kind in ("allowed", "auto"):
        # An older reflector ignores selectors and takes a missing list for all namespaces. "-" matches none.
        annotations[f"reflection-{kind}-namespaces"] = patterns
        if secret.get("namespace_selector"):
            annotations[f"reflection-{kind}-namespaces-selector"] = secret["namespace_selector"]
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": pull_secrets.TYPE,
        "metadata": {
            "name": secret["name"],
            "namespace": namespace,
            "labels": pull_secrets.source_labels(owner),
            "annotations": {pull_secrets.REFLECTOR + name: value for name, value in annotations.items()},
        },
        "data": {pull_secrets.KEY: pull_secrets.encoded(secret)},
    }
