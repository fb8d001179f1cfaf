# SPDX-License-Identifier: GPL-3.0-or-later
"""The questions that playbooks/acceptance.yml asks of Google, by theme, and what they have in common."""
