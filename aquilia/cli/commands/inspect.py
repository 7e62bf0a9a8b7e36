"""`aq inspect`: what the workspace consists of."""

from __future__ import annotations
from aquilia.cli.commands.compile import AppOption


def inspect_command(app: AppOption = None) -> None:
    """x"""
