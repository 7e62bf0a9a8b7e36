"""Workspaces for the tests of `aq`."""

from __future__ import annotations

from pathlib import Path

import pytest
from workspaces import CONTROLLERS, MANIFEST, Workspace


@pytest.fixture
def empty(tmp_path: Path) -> Workspace:
    """A folder with nothing in it."""
    return Workspace(tmp_path)


@pytest.fixture
def echo(empty: Workspace) -> Workspace:
    """A workspace that is in order, and not compiled."""
    return filled(empty)


@pytest.fixture
def compiled(echo: Workspace) -> Workspace:
    """The same, compiled."""
    echo.compile()
    return echo


def filled(workspace: Workspace) -> Workspace:
    workspace.write("modules/echo/manifest.py", MANIFEST)
    workspace.write("modules/echo/controllers.py", CONTROLLERS)
    return workspace
