# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # For modules that send requests to every replica.
    DOCUMENTATION = r"""
options:
  label_selector:
    description: Label selector of the replicas' pods, such as V(app.kubernetes.io/name=registry-cache).
    type: str
    required: true
  port:
    description: Port of the registry in the pods.
    type: int
    default: 5000
  timeout:
    description: Maximum time, in seconds, until every replica answers as expected.
    type: int
    default: 300
requirements:
  - kubernetes
attributes:
  check_mode:
    description: The check needs running replicas, so the module skips it in check mode.
    support: none
"""
