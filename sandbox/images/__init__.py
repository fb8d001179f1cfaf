# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images of the sandbox: pulled where that works, else made here from packages and Go modules."""
