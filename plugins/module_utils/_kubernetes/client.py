# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A client for the cluster that kubernetes.core finds for a module's options.

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
except ImportError:  # AnsibleK8SModule reports what is missing

    class ApiException(Exception):  # type: ignore[no-redef]
        pass

    class HTTPError(Exception):  # type: ignore[no-redef]
        pass

    class YAMLError(Exception):  # type: ignore[no-redef]
        pass

    MaxRetryError = HTTPError

# Every cluster has this namespace. Its UID identifies the cluster.
IDENTITY_PATH = "/api/v1/namespaces/kube-system"
APPLY = {"content_type": "application/apply-patch+yaml", "field_manager": "registry-cache", "force_conflicts": "true"}
PATCH = {"content_type": "application/merge-patch+json", "field_manager": "registry-cache"}
# Timeouts in seconds: to connect, and to wait for an answer.
_TIMEOUT = (10, 60)
_MAX_THREADS = 16
# How many times to send a request that the API server rejects with HTTP 429, and the longest pause in seconds.
_TRIES, _MAX_PAUSE = 5, 10


def _unusable(host: str, cause: t.Any) -> UnreachableError:
    return UnreachableError(f"No usable answer from {host}: {cause}")


def _translated(error: Exception, host: str) -> ClusterError:
    """Return the error for a request that the API server refused or did not answer."""
    if isinstance(error, ApiException):
        # There is no status if TLS failed.
        return of_response(host, error.status, error.reason, error.body) if error.status else _unusable(host, error.reason)
    if isinstance(error, MaxRetryError):
        host, error = f"{error.pool.scheme}://{error.pool.host}:{error.pool.port}{error.url}", error.reason or error
    return _unusable(host, error)


class Client:
    """A client for an API server. It may be used from several threads.

    :param raw: client of kubernetes.core, a DynamicClient.
    """

    def __init__(self, raw: t.Any) -> None:
        self.raw = raw
        self.host: str = raw.configuration.host
        # The number of connections that the pool keeps open.
        self.threads = min(_MAX_THREADS, raw.configuration.connection_pool_maxsize or 1)

    def request(self, method: str, path: str, body: t.Any = None, accept: str = "application/json", **options: t.Any) -> t.Any:
        """Send a request; return the decoded JSON answer. Raise ApiError and UnreachableError."""
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
        """Return the error for an answer that cannot be used."""
        return _unusable(self.host, cause)

    def get(self, path: str, accept: str = "application/json") -> t.Any:
        """Return an object, or None if it does not exist. Raise ApiError and UnreachableError."""
        try:
            return self.request("get", path, accept=accept)
        except NotFoundError:
            return None

    def cluster_uid(self) -> str:
        """Return the UID of namespace kube-system, which identifies the cluster. Raise ApiError and UnreachableError."""
        try:
            return self.request("get", IDENTITY_PATH)["metadata"]["uid"]
        except (LookupError, TypeError) as error:
            raise self.unusable(f"{IDENTITY_PATH} has no uid") from error

    def list_all(
        self, kind: str, metadata_only: bool = False, namespace: str | None = None, group: str = "/api/v1", **selectors: str
    ) -> list[dict[str, t.Any]]:
        """Return all objects of a kind, in one namespace or in all. Raise ApiError and UnreachableError."""
        accept = "application/json"
        if metadata_only:
            accept = f"{accept};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
        path = f"{group}/namespaces/{namespace}/{kind}" if namespace else f"{group}/{kind}"
        answer = self.request("get", path, accept=accept, **selectors)
        if not isinstance(answer, dict) or "items" not in answer:
            raise self.unusable(f"{path} is not a list")
        # A list of metadata without items has null here.
        return answer["items"] or []

    def delete(self, path: str, uid: str | None) -> None:
        """Delete an object, unless another one has its name now. Raise ApiError and UnreachableError."""
        with contextlib.suppress(NotFoundError):
            self.request("delete", path, {"preconditions": {"uid": uid}})

    def each(self, tasks: t.Iterable[t.Callable[[], t.Any]]) -> list[t.Any]:
        """Run tasks in parallel; return their results in the order of the tasks."""
        with ThreadPoolExecutor(self.threads) as executor:
            return [future.result() for future in [executor.submit(task) for task in tasks]]


def connect(module: t.Any) -> Client:
    """Return the client for a module's options. It has read the cluster's version. Raise ApiError and UnreachableError."""
    try:
        return Client(get_api_client(module).client)
    except CoreException as error:
        raise UnreachableError(f"Cannot connect to the cluster: {str(error).rstrip('. ')}") from error
    except (YAMLError, AttributeError, LookupError, TypeError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())
        raise UnreachableError(f"Cannot connect to the cluster: the kubeconfig is malformed ({words})") from error
    except (ApiException, HTTPError, OSError, ValueError) as error:
        raise _translated(error, "the cluster") from error
