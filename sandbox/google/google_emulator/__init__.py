# SPDX-License-Identifier: GPL-3.0-or-later
"""An emulator of Google: workload identity federation, Artifact Registry and its docker endpoint.

It refuses what Google refuses, with Google's messages. A dagger (†) marks behaviour that was not
verified at Google.
"""
