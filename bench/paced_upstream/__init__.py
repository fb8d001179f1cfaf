# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry that behaves like a remote one: Bearer tokens, redirects to signed URLs, latency, bandwidth, faults.

Loopback only. `python3 -m bench.paced_upstream CONFIG` runs it. `Upstream` starts it and controls it through `/control`.
"""
