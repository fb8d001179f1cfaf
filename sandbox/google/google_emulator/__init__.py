# SPDX-License-Identifier: GPL-3.0-or-later
"""An emulator of Google: workload identity federation, Artifact Registry and its docker endpoint.

It refuses what Google refuses and says it in Google's words. A dagger (†) marks what Google's own
behaviour is not verified for.
"""
