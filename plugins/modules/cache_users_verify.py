#!/usr/bin/python

# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cache_users_verify
short_description: Verify that each replica of a cache knows the current credentials
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Reads the credentials of the users from Secret C(NAME-passwords), which M(pullthrough.registry_cache.cache_users) writes. Each replica
    must accept new credentials and refuse revoked ones.
  - Sends a request with each credential to each replica, and repeats it until the answer is correct or O(timeout) has passed. Kubelets
    need up to two minutes to update a changed Secret in the pods.
  - Annotates the pod of a replica with a wrong answer, so that its kubelet updates the Secret at once.
  - Tests at most ten new and ten revoked credentials, because the htpasswd file reaches a pod as a whole.
options:
  added:
    description:
      - Registry user names that are new in the htpasswd file, as returned by M(pullthrough.registry_cache.cache_users). Credentials of a
        rotation are tested without being listed here.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - kubernetes.core.k8s_auth_options
  - pullthrough.registry_cache.cache
  - pullthrough.registry_cache.replicas
attributes:
  diff_mode:
    description: The module changes only an annotation of pods.
    support: none
notes:
  - The caller needs the permissions C(get) on Secrets, C(list) on pods and C(get) on C(pods/portforward) in the namespace. Kubernetes 1.35
    and later also require C(create) on C(pods/portforward). With C(patch) on pods, the module is faster.
seealso:
  - module: pullthrough.registry_cache.cache_users
"""

EXAMPLES = r"""
- name: Add users
  pullthrough.registry_cache.cache_users:
    users_from: registry_cache_users
  register: users

- name: Verify that each replica knows the users
  pullthrough.registry_cache.cache_users_verify:
    label_selector: app.kubernetes.io/name=registry-cache
    added: "{{ users.added }}"
"""

RETURN = r"""
replicas:
  description: Pods that answered correctly. Empty if there was nothing to test.
  returned: success
  type: list
  elements: str
  sample: [registry-cache-0, registry-cache-1]
"""

import time
import typing as t

from ansible_collections.pullthrough.registry_cache.plugins.module_utils._credentials import users
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.cache_objects import cache_of
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.client import Client
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.errors import PermanentError, TransientError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.replicas import PAUSE_SECONDS, Replicas
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._kubernetes.runner import (
    CACHE_OPTIONS,
    REPLICA_OPTIONS,
    cluster_module,
    run,
)

_MAX_CREDENTIALS = 10


class Question(t.NamedTuple):
    """A credential, and the HTTP status that each replica must return for it."""

    credential: users.Credential
    status: int


def questions(client: Client, params: dict[str, t.Any]) -> list[Question]:
    """Return the credentials of the Secret to test at each replica, with the expected HTTP status. Raise ClusterError."""
    accepted, refused = users.moved(users.Passwords(client, cache_of(params)).state, params["added"])
    return [*(Question(one, 200) for one in accepted[:_MAX_CREDENTIALS]), *(Question(one, 401) for one in refused[:_MAX_CREDENTIALS])]


class Probe:
    """The credentials that each replica must still accept or refuse. A pod that replaces another one starts again."""

    def __init__(self, replicas: Replicas, label_selector: str, asked: list[Question]) -> None:
        self._replicas, self._selector, self._asked = replicas, label_selector, asked
        self._shown: set[tuple[str, str, int]] = set()
        # Uids of pods.
        self._touched: set[str] = set()
        self._unreached: set[str] = set()

    def look(self) -> tuple[list[str], dict[str, str]]:
        """Return the names of the pods, and the problem of each pod that is not correct yet. Raise PermanentError."""
        found = self._replicas.look(self._selector)
        wrong = {pod: self._wrong(pod, uid) if ready else "is not ready" for pod, (uid, ready) in found.items()}
        for pod in wrong:
            if wrong[pod] and found[pod][1] and found[pod][0] not in self._touched:
                self._touched.add(found[pod][0])
                self._replicas.touch(pod, str(int(time.time())))
        return sorted(found), {pod: what for pod, what in wrong.items() if what}

    def _wrong(self, pod: str, uid: str) -> str | None:
        for one, expected in self._asked:
            if (uid, one["name"], expected) in self._shown:
                continue
            try:
                status, _body = self._replicas.fetch(pod, "/v2/", one["name"], one["password"])
            except TransientError as error:
                return str(error)
            except PermanentError as error:
                # The first time, the pod may just have been deleted.
                if uid in self._unreached:
                    raise
                self._unreached.add(uid)
                return str(error)
            # 429: too many unknown credentials are waiting for a check.
            if status != expected:
                verb = "does not accept" if expected == 200 else "still accepts" if status == 200 else "does not refuse"
                return f"{verb} user '{one['name']}' (HTTP {status})"
            self._shown.add((uid, one["name"], expected))
        return None


def wait(
    replicas: Replicas,
    asked: list[Question],
    params: dict[str, t.Any],
    clock: t.Callable[[], float] = time.monotonic,
    sleep: t.Callable[[float], None] = time.sleep,
) -> list[str]:
    """Return the names of the pods once all are correct. Raise TransientError and PermanentError."""
    probe, deadline = Probe(replicas, params["label_selector"], asked), clock() + params["timeout"]
    while True:
        pods, wrong = probe.look()
        if not wrong:
            return pods
        if clock() + PAUSE_SECONDS > deadline:
            raise TransientError("; ".join(f"{pod} {what}" for pod, what in sorted(wrong.items())))
        sleep(PAUSE_SECONDS)


def verify(module: t.Any, client: Client) -> dict[str, t.Any]:
    """Verify all replicas; return the result of the module. Raise ClusterError."""
    params = module.params
    asked = questions(client, params)
    try:
        pods = wait(Replicas(client, params["namespace"], "", params["port"]), asked, params) if asked else []
    except TransientError as error:
        raise TransientError(
            f"timeout: replicas are not correct after {params['timeout']} s: {error}. Kubelets may still be updating the htpasswd file. All"
            " progress is kept. Run again, or wait longer. Example: timeout: 600"
        ) from error
    return {"changed": False, "replicas": pods}


def main() -> None:
    spec = {
        **CACHE_OPTIONS,
        **REPLICA_OPTIONS,
        "added": {"type": "list", "elements": "str", "default": []},
    }
    run(cluster_module(spec, supports_check_mode=False), verify)


if __name__ == "__main__":
    main()
