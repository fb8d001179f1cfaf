# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way to the cluster that kubernetes.core finds.

Private to this collection.
"""

from __future__ import annotations

import typing as t

from ansible_collections.kubernetes.core.plugins.module_utils.k8s import client
from ansible_collections.kubernetes.core.plugins.module_utils.k8s.exceptions import CoreException

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
