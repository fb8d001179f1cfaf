# SPDX-License-Identifier: GPL-3.0-or-later
"""Clients of a running sandbox for demo and tests: of the cache, the emulator, the cluster and its nodes."""

from .cache import ACCEPT, NAMESPACE, USER, Cache
from .cluster import Cluster
from .google import Google, operator_client

__all__ = ["ACCEPT", "NAMESPACE", "USER", "Cache", "Cluster", "Google", "operator_client"]
