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
def compiled(echo: Workspace, artifact: str) -> Workspace:
    """The same, compiled."""
    echo.write("artifacts/ws.crous", artifact)
    return echo


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `aq compile` makes of it, in whatever folder."""
    workspace = filled(Workspace(tmp_path_factory.mktemp("echo")))
    workspace.done("compile")
    return (workspace.root / "artifacts" / "ws.crous").read_text()


def filled(workspace: Workspace) -> Workspace:
    workspace.write("modules/echo/manifest.py", MANIFEST)
    workspace.write("modules/echo/controllers.py", CONTROLLERS)
    return workspace
