from __future__ import annotations


def init_command(name: str) -> None:
    """x"""
