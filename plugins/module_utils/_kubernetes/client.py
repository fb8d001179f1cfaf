# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the cluster that kubernetes.core finds by a module's options.

Private to this collection.
"""

from __future__ import annotations

import contextlib
import json
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.kubernetes.core.plugins.module_utils.k8s.client import get_api_client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

from .errors import ClusterError, NotFoundError, UnreachableError, of_response

try:
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError, MaxRetryError
    from yaml import YAMLError
except ImportError:  # AnsibleK8SModule says what is missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass

    class HTTPError(Exception):  # type: ignore[no-redef]
        pass

    class YAMLError(Exception):  # type: ignore[no-redef]
        pass

    MaxRetryError = HTTPError

# The namespace that every cluster has; its UID identifies the cluster.
IDENTITY_PATH = "/api/v1/namespaces/kube-system"
APPLY = {"content_type": "application/apply-patch+yaml", "field_manager": "registry-cache", "force_conflicts": "true"}
PATCH = {"content_type": "application/merge-patch+json", "field_manager": "registry-cache"}
# Seconds to connect and to wait for an answer.
_TIMEOUT = (10, 60)
_MAX_THREADS = 16
# How often a request is tried that the API server puts off (HTTP 429), and the longest pause in seconds.
_TRIES, _MAX_PAUSE = 5, 10


def _unusable(host: str, cause: t.Any) -> UnreachableError:
    return UnreachableError(f"No usable answer from {host}: {cause}")


def _translated(error: Exception, host: str) -> ClusterError:
    """The error of a request that the API server refused or did not answer."""
    if isinstance(error, ApiException):
        # Without a status TLS failed.
        return of_response(host, error.status, error.reason, error.body) if error.status else _unusable(host, error.reason)
    if isinstance(error, MaxRetryError):
        host, error = f"{error.pool.scheme}://{error.pool.host}:{error.pool.port}{error.url}", error.reason or error
    return _unusable(host, error)


class Client:
    """Requests to an API server; safe to use from several threads.

    :param raw: the client that kubernetes.core makes, a DynamicClient.
    """

    def __init__(self, raw: t.Any) -> None:
        self.raw = raw
        self.host: str = raw.configuration.host
        # What the client's own pool of connections keeps open.
        self.threads = min(_MAX_THREADS, raw.configuration.connection_pool_maxsize or 1)

    def request(self, method: str, path: str, body: t.Any = None, accept: str = "application/json", **options: t.Any) -> t.Any:
        """The decoded answer. Raises ApiError and UnreachableError."""
        attempt = 0
        while True:
            attempt += 1
            try:
                answer = self.raw.request(
                    method, path, body, header_params={"Accept": accept}, serialize=False, _request_timeout=_TIMEOUT, **options
                )
                return json.loads(answer.data)
            except ApiException as error:
                if error.status != 429 or attempt == _TRIES:
                    raise _translated(error, self.host) from error
                pause = (error.headers or {}).get("Retry-After", "1")
                time.sleep(min(float(pause) if pause.isdigit() else 1, _MAX_PAUSE))
            except (HTTPError, OSError, ValueError) as error:
                raise _translated(error, self.host) from error

    def unusable(self, cause: t.Any) -> UnreachableError:
        """The error of an answer that makes no sense."""
        return _unusable(self.host, cause)

    def get(self, path: str, accept: str = "application/json") -> t.Any:
        """An object, or None if it does not exist. Raises ApiError and UnreachableError."""
        try:
            return self.request("get", path, accept=accept)
        except NotFoundError:
            return None

    def cluster_uid(self) -> str:
        """The UID of the namespace that every cluster has, which identifies the cluster. Raises ApiError and UnreachableError."""
        try:
            return self.request("get", IDENTITY_PATH)["metadata"]["uid"]
        except (LookupError, TypeError) as error:
            raise self.unusable(f"{IDENTITY_PATH} has no uid") from error

    def list_all(
        self, kind: str, metadata_only: bool = False, namespace: str | None = None, group: str = "/api/v1", **selectors: str
    ) -> list[dict[str, t.Any]]:
        """All objects of a kind in a namespace, or in all. Raises ApiError and UnreachableError."""
        accept = "application/json"
        if metadata_only:
            accept = f"{accept};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        path = f"{group}/namespaces/{namespace}/{kind}" if namespace else f"{group}/{kind}"
        answer = self.request("get", path, accept=accept, **selectors)
        if not isinstance(answer, dict) or "items" not in answer:
            raise self.unusable(f"{path} is no list")
        # Null where there is none, of metadata alone.
        return answer["items"] or []

    def delete(self, path: str, uid: str | None) -> None:
        """Delete an object, unless another one has taken its name. Raises ApiError and UnreachableError."""
        with contextlib.suppress(NotFoundError):
            self.request("delete", path, {"preconditions": {"uid": uid}})

    def each(self, tasks: t.Iterable[t.Callable[[], t.Any]]) -> list[t.Any]:
        """What the tasks return, in their order; several run at a time."""
        with ThreadPoolExecutor(self.threads) as executor:
            return [future.result() for future in [executor.submit(task) for task in tasks]]


def connect(module: t.Any) -> Client:
    """The client for a module's options, which has asked the cluster for its version. Raises ApiError and UnreachableError."""
    try:
        return Client(get_api_client(module).client)
    except CoreException as error:
        raise UnreachableError(f"No way to the cluster: {str(error).rstrip('. ')}") from error
    except (YAMLError, AttributeError, LookupError, TypeError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise UnreachableError(f"No way to the cluster: the kubeconfig is malformed ({words})") from error
    except (ApiException, HTTPError, OSError, ValueError) as error:
        raise _translated(error, "the cluster") from error
