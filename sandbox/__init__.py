# SPDX-License-Identifier: GPL-3.0-or-later
"""A real kind cluster and an emulator of Google, on a machine that may reach only package registries."""
