# SPDX-License-Identifier: GPL-3.0-or-later
"""Container images of the sandbox: pulled if possible, else made from Debian packages and Go modules."""
