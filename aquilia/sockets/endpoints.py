"""What is served over HTTP beside the sockets, each at the path that its setting names."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.types import ASGIApp

from aquilia.aquilary import BootError, Problem
from aquilia.sockets.health import Health
from aquilia.sockets.settings import NodeSettings

__all__ = ["endpoints", "live_path"]


def live_path(node: NodeSettings) -> str | None:
    """Where it is answered that the process lives: below the setting `health`."""
    return None if node.health is None else f"{node.health}/live"


def endpoints(
    node: NodeSettings,
    *,
    metrics: ASGIApp | None,
    health: Health,
    tickets: ASGIApp | None,
    admin: Mapping[str, ASGIApp],
) -> dict[str, ASGIApp]:
    """The endpoints of the settings `metrics`, `health`, `tickets` and `admin`, by their paths.

    Raises:
        BootError: two of them have the same path.
    """
    offered = (
        ("metrics", None if node.metrics == "collect" else node.metrics, metrics),
        ("health", node.health, health),
        ("health", live_path(node), health.live),
        ("tickets", node.tickets, tickets),
        *(("admin", path, endpoint) for path, endpoint in admin.items()),
    )
    found: dict[str, ASGIApp] = {}
    settings: dict[str, str] = {}
    for setting, path, endpoint in offered:
        if path is None or endpoint is None:
            continue
        if (other := settings.setdefault(path, setting)) != setting:
            told = f"{setting} and {other} are both served at {path}: give one of the two another path"
            raise BootError([Problem(setting, told)])
        found[path] = endpoint
    return found
