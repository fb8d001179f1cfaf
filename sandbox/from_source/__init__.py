# SPDX-License-Identifier: GPL-3.0-or-later
"""Programs that are built here from Go modules and kept in the cache directory."""
