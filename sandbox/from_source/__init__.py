# SPDX-License-Identifier: GPL-3.0-or-later
"""Builds programs from Go modules and keeps them in the cache directory."""
