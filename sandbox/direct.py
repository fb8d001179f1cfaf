# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP requests to this machine's own addresses, which no proxy of the environment redirects."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping


def opener(context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """Sends requests without a proxy. `context`: what HTTPS trusts."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def status(
    url: str, headers: Mapping[str, str] | None = None, context: ssl.SSLContext | None = None, timeout: float = 5
) -> int:
    """The status of a GET, 0 if nobody answers."""
    try:
        with opener(context).open(urllib.request.Request(url, headers=dict(headers or {})), timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
