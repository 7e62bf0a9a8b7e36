"""Whose connections there are in a namespace, so that a publication to one identity need not look at all of them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from aquilia.sockets.connection import Connection

__all__ = ["Identities"]


class Identities:
    """Connections by the `id` of their identity. Who is anonymous takes no room here."""

    __slots__ = ("_found",)

    def __init__(self) -> None:
        # Most identities have one connection: a mapping for each would be a fifth of what a connection takes.
        self._found: dict[Hashable, Connection | dict[Connection, None]] = {}

    def __len__(self) -> int:
        return len(self._found)

    def add(self, identity: Any, conn: Connection) -> None:
        """Note whose a connection is."""
        id = getattr(identity, "id", None)
        if id is None:
            return
        found = self._found.get(id)
        if found is None:
            self._found[id] = conn
        elif isinstance(found, dict):
            found[conn] = None
        else:
            self._found[id] = {found: None, conn: None}

    def remove(self, identity: Any, conn: Connection) -> None:
        """The opposite of `add`; one that is not there is no error."""
        id = getattr(identity, "id", None)
        found = self._found.get(id)
        if found is conn:
            del self._found[id]
        elif isinstance(found, dict):
            found.pop(conn, None)
            if not found:
                del self._found[id]

    def of(self, id: str) -> Sequence[Connection]:
        """The connections of one identity."""
        found = self._found.get(id)
        if found is None:
            return ()
        return tuple(found) if isinstance(found, dict) else (found,)
