# SPDX-License-Identifier: GPL-3.0-or-later
"""A registry as slow and far as a real one: Bearer tokens, redirects to signed URLs, latency, bandwidth, faults.

Loopback only. `python3 -m bench.paced_upstream CONFIG` serves; `Upstream` starts that and steers it through `/control`.
"""
