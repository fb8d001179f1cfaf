# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    # Of modules that ask every replica.
    DOCUMENTATION = r"""
options:
  label_selector:
    description: Selects the replicas' pods.
    type: str
    required: true
  port:
    description: The port of the registry in the pod.
    type: int
    default: 5000
  timeout:
    description: How many seconds to try until every replica answers as it should.
    type: int
    default: 300
requirements:
  - kubernetes
attributes:
  check_mode:
    description: Needs running replicas, so that check mode skips it.
    support: none
"""
