# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP requests to this machine's own addresses, without the proxy that the environment may set."""

from __future__ import annotations

import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping


def opener(context: ssl.SSLContext | None = None) -> urllib.request.OpenerDirector:
    """Returns an opener that uses no proxy. `context`: the CAs that it trusts."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))


def status(
    url: str, headers: Mapping[str, str] | None = None, context: ssl.SSLContext | None = None, timeout: float = 5
) -> int:
    """Returns the status of a GET, or 0 without an answer."""
    try:
        with opener(context).open(urllib.request.Request(url, headers=dict(headers or {})), timeout=timeout) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
