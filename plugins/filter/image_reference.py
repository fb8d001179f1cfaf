# Copyright (c) 2026 the pullthrough.registry_cache authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: image_reference
short_description: Split an image reference into its parts
version_added: 0.1.0
author: the pullthrough.registry_cache authors (@pullthrough)
description:
  - Splits an image reference as docker does. A reference without a registry belongs to C(docker.io).
options:
  _input:
    description: Image reference.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the registry of an image
  ansible.builtin.debug:
    msg: "{{ ('us-central1-docker.pkg.dev/p/r/i:1.0' | pullthrough.registry_cache.image_reference).registry }}"
"""

RETURN = r"""
_value:
  description: The parts C(registry), C(repository), C(tag) and C(digest). C(tag) and C(digest) are C(none) if the reference has none.
  type: dict
"""

import typing as t

from ansible.errors import AnsibleFilterError
from ansible_collections.pullthrough.registry_cache.plugins.module_utils._image import reference as _image_reference


def image_reference(value: t.Any) -> dict[str, str | None]:
    if not isinstance(value, str):
        raise AnsibleFilterError(
            f"image_reference: the input must be a string (got {type(value).__name__}). Example: {_image_reference.EXAMPLE}"
        )
    try:
        return dict(_image_reference.parse(value)._asdict())
    except ValueError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    def filters(self) -> dict[str, t.Callable[..., t.Any]]:
        return {"image_reference": image_reference}
