"""What an application needs a store for: asked where its adapter has none."""

from __future__ import annotations

from collections.abc import Iterator

from aquilia.sockets.adapters.choice import STORE_URL
from aquilia.sockets.plan import SocketPlan

__all__ = ["store_needs", "without_store"]


def store_needs(plan: SocketPlan) -> Iterator[str]:
    """Each thing that is switched on and would not work without a store, and how it is switched off."""
    contracts = [contract for _, contract in plan.contracts]
    resuming = [
        contract.declaration.path
        for contract in contracts
        if contract.settings.resume and contract.declaration.function is None
    ]
    if resuming:
        yield f"clients of {_listed(resuming)} come back to their sessions (unless they say resume=False)"
    once = [
        f"{event.declaration.name} of {contract.declaration.path}"
        for contract in contracts
        for event in contract.events.values()
        if event.declaration.delivery == "effectively_once"
    ]
    if once:
        yield f'delivery="effectively_once" remembers answers ({_listed(once)})'
    node = plan.node
    said = {
        "revocation": node.revocation,
        "tickets": node.tickets is not None,
        "identity_rate_limit": node.identity_rate_limit is not None,
        "identity_byte_rate_limit": node.identity_byte_rate_limit is not None,
    }
    if settings := [setting for setting, there in said.items() if there]:
        yield f"the {'setting' if len(settings) == 1 else 'settings'} {_listed(settings)}"


def without_store(needs: list[str]) -> str:
    """What is told to an application that has these needs, and no store."""
    return (
        f"it has no store, and this application needs one: {'; '.join(needs)}. Name that of another adapter by "
        f"the setting store_url, as 'redis://host:6379' or 'nats://host:4222', or by {STORE_URL}"
    )


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
