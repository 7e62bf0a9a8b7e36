"""The option `--trusted-proxies`: whose word on who a client is counts."""

from __future__ import annotations

from typing import Annotated

import typer

from aquilia.sockets.accepted import Place, SettingsError, proxies

__all__ = ["ProxiesOption", "named_proxies"]

ProxiesOption = Annotated[
    str | None,
    typer.Option(
        "--trusted-proxies",
        metavar="ADDRESSES",
        help="Proxies whose Forwarded and X-Forwarded-* count: addresses, networks and 'unix', by commas.",
        show_default="the setting trusted_proxies",
    ),
]


def named_proxies(told: str | None) -> tuple[str, ...] | None:
    """The proxies of this option; None: those of the setting.

    Raises:
        typer.BadParameter: for what is no proxy.
    """
    if told is None:
        return None
    entries = [entry.strip() for entry in told.split(",") if told]
    try:
        return proxies(Place("aq", "--trusted-proxies"), entries)
    except SettingsError as error:
        raise typer.BadParameter(error.problem, param_hint="--trusted-proxies") from None
