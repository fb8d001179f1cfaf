# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection to the cluster that kubernetes.core finds, and what a module says when there is none.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kubernetes.core.plugins.module_utils.k8s import client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

from .._credentials import pull_secrets

try:
    from yaml import YAMLError
except ImportError:  # AnsibleK8SModule says what is missing

    class YAMLError(Exception):  # type: ignore[no-redef]
        pass

# The namespace that every cluster has; its UID identifies the cluster.
IDENTITY_PATH = "/api/v1/namespaces/kube-system"


def get_api_client(module: t.Any) -> t.Any:
    """kubernetes.core's client for the module's options, which has asked the cluster for its version.

    :raises CoreException: if there is no way to a cluster, a malformed kubeconfig included; the text has no full stop.
    """
    try:
        return client.get_api_client(module)
    except CoreException as error:
        raise CoreException(str(error).rstrip(". ")) from error
    except (YAMLError, AttributeError, LookupError, TypeError, UnicodeDecodeError) as error:
        raise CoreException(f"the kubeconfig is malformed ({' '.join(str(error).split())})") from error


WAY_OUT = "Set kubeconfig and context, or KUBECONFIG, to a cluster that answers"


def run(module: t.Any, work: t.Callable[[pull_secrets.Api], dict[str, t.Any]], *refusals: type[Exception]) -> None:
    """Exit the module with what `work` returns, or fail it with a sentence.

    :param refusals: exceptions of `work` whose text is that sentence.
    """
    host = "the cluster"
    try:
        client = get_api_client(module).client
        host = client.configuration.host
        result = work(pull_secrets.Api(client))
    except CoreException as error:
        module.fail_json(msg=f"No way to the cluster: {error}. {WAY_OUT}.")
    except pull_secrets.ApiException as error:
        module.fail_json(msg=f"{host} refuses: {pull_secrets.words(error)}. {WAY_OUT}.")
    except refusals as error:
        module.fail_json(msg=str(error))
    except (pull_secrets.HTTPError, OSError, ValueError) as error:
        module.fail_json(msg=f"No usable answer from {host}: {error}. {WAY_OUT}.")
    module.exit_json(**result)
