"""The credential that a handshake brings: the places where it may stand, and that there is no more than one."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote_plus

from starlette.requests import HTTPConnection

from aquilia.auth import TokenFault, bearer_token
from aquilia.sockets.faults import ws_handshake_failed

__all__ = [
    "CREDENTIALS",
    "TICKET_PARAMETER",
    "Credential",
    "Kind",
    "carriers",
    "offered_credential",
    "withdraw",
]

Kind = Literal["token", "ticket"]

_BEARER = "aquilia.bearer."
_BEARER64 = "aquilia.bearer64."
_TICKET = "aquilia.ticket."
CREDENTIALS = (_BEARER, _BEARER64, _TICKET)
"""What a browser, which can set no header, puts before its credential among the subprotocols."""
TICKET_PARAMETER = "ticket"
"""Where a ticket stands in the query."""
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True)
class Credential:
    """A token, for the AuthManager, or a ticket. Neither is to be shown."""

    kind: Kind
    text: str = field(repr=False)


def carriers(*, tickets: bool, query_token: str | None) -> Mapping[bytes, Kind]:
    """The parameters of a query that hold a credential, by what the settings of the process allow."""
    found: dict[bytes, Kind] = {}
    if tickets:
        found[TICKET_PARAMETER.encode()] = "ticket"
    if query_token is not None:
        found[query_token.encode()] = "token"
    return found


def withdraw(scope: Any, carriers: Mapping[bytes, Kind]) -> tuple[Credential, ...]:
    """Take the credentials out of the query, and leave the other parameters as they are.

    The scope itself is changed, not a copy: the server writes its log from that, and so may anybody behind us.
    """
    query: bytes = scope.get("query_string", b"")
    if not carriers or not query:
        return ()
    kept: list[bytes] = []
    found: list[Credential] = []
    for part in query.split(b"&"):
        name, _, value = part.partition(b"=")
        kind = carriers.get(unquote_plus(name.decode("latin-1")).encode(errors="replace"))
        if kind is None:
            kept.append(part)
        else:
            found.append(Credential(kind, unquote_plus(value.decode("latin-1"), errors="replace")))
    if found:
        scope["query_string"] = b"&".join(kept)
    return tuple(found)


def offered_credential(
    connection: HTTPConnection, subprotocols: Iterable[str], carried: Iterable[Credential]
) -> Credential | None:
    """What came with a handshake: in `Authorization`, among the subprotocols, or `carried` in the query.

    Raises:
        SocketFault: WS_HANDSHAKE_FAILED, if it is malformed, or there is more than one.
    """
    try:
        in_header = bearer_token(connection)
    except TokenFault as fault:
        raise ws_handshake_failed(fault.message) from None
    entries = [entry for entry in subprotocols if entry.startswith(CREDENTIALS)]
    found = list(carried) if in_header is None else [Credential("token", in_header), *carried]
    if len(entries) + len(found) > 1:
        raise ws_handshake_failed("more than one token was offered")
    if entries:
        return _credential_of(entries[0])
    if found == [Credential("token", "")]:
        raise ws_handshake_failed("the token in the query is empty")
    return found[0] if found else None


def _credential_of(entry: str) -> Credential:
    if not entry.startswith(_BEARER64):
        prefix, kind = (_BEARER, "token") if entry.startswith(_BEARER) else (_TICKET, "ticket")
        text = entry.removeprefix(prefix)
        if not text:
            raise ws_handshake_failed(f"the {kind} among the subprotocols is empty")
        return Credential("token" if kind == "token" else "ticket", text)
    encoded = entry.removeprefix(_BEARER64)
    try:
        if not _BASE64URL.fullmatch(encoded):
            raise ValueError
        return Credential("token", base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode())
    except (ValueError, binascii.Error):
        raise ws_handshake_failed(
            f"behind {_BEARER64!r} comes a token in base64url (RFC 4648 section 5), of UTF-8 and without padding"
        ) from None
