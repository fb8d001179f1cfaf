# SPDX-License-Identifier: GPL-3.0-or-later
"""Side-by-side measurements on loopback processes: `make bench`."""
