"""One WebSocket of a client, by the library `websockets`, and what its failures mean."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from ssl import SSLContext
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, NegotiationError
from websockets.typing import Subprotocol

from aquilia.client.faults import ConnectionEnded
from aquilia.client.session import Session

__all__ = ["Dialer", "Link", "checked_url"]

_INSTEAD = {"http": "ws", "https": "wss"}
_RETRY_AFTER_AT_MOST = 3600.0


class Link(ClientConnection):
    """A connection that notes every sign of life, pings included, and can be cut."""

    on_bytes: Callable[[], None] = staticmethod(lambda: None)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self.on_bytes()
        super().data_received(data)

    def abort(self) -> None:
        """End without a closing handshake: nobody is there to answer."""
        self.transport.abort()


def checked_url(url: str) -> str:
    """The URL of a WebSocket.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    if parts.scheme in _INSTEAD:
        raise ValueError(
            f"{url!r} is an address for HTTP: say {_INSTEAD[parts.scheme]}://{url.split('://')[1]}"
        )
    if parts.scheme not in ("ws", "wss"):
        raise ValueError(f"{url!r} is no address of a WebSocket: it begins with ws:// or wss://")
    if not parts.hostname:
        raise ValueError(f"{url!r} names no host")
    if parts.fragment:
        raise ValueError(f"{url!r} has a fragment (#…), which WebSockets have not (RFC 6455 section 3)")
    return url


class Dialer:
    """Opens links to one address. What goes wrong is told to the session."""

    def __init__(
        self,
        url: str,
        *,
        subprotocol: str,
        headers: Mapping[str, str],
        ssl: SSLContext | None,
        proxy: str | bool | None,
        open_timeout: float,
        close_timeout: float,
        max_message_size: int,
    ) -> None:
        self._subprotocol = subprotocol
        self._options: dict[str, Any] = {
            "subprotocols": [Subprotocol(subprotocol)],
            "additional_headers": dict(headers),
            "proxy": proxy or None,
            "open_timeout": open_timeout,
            "close_timeout": close_timeout,
            "max_size": max_message_size,
            # The protocol's own heartbeat does it: it reaches the server through proxies and foreign ASGI
            # servers, and follows the session's clock. Two of them would race.
            "ping_interval": None,
            "create_connection": Link,
        }
        if ssl is not None:
            self._options["ssl"] = ssl
        self.url = checked_url(url)

    async def dial(self, session: Session, now: Callable[[], float]) -> Link | None:
        """A link that speaks the session's subprotocol; None where the session was told why there is none."""
        try:
            link = await connect(self.url, **self._options)
        except InvalidStatus as refused:
            _tell_refusal(session, refused, now())
        except NegotiationError as error:
            session.unusable(self._not_spoken(str(error)), now())
        except (OSError, InvalidHandshake, EOFError) as error:  # a timeout is an OSError
            session.unreachable(f"{self.url} cannot be reached: {error}", now(), cause=error)
        else:
            assert isinstance(link, Link)
            if link.subprotocol == self._subprotocol:
                return link
            link.abort()
            session.unusable(self._not_spoken("it chose no subprotocol"), now())
        return None

    def _not_spoken(self, told: str) -> ConnectionEnded:
        return ConnectionEnded(
            f"{self.url} does not speak {self._subprotocol}: {told}. This client speaks protocol v1 only, "
            "not its plain profile"
        )


def _tell_refusal(session: Session, refused: InvalidStatus, now: float) -> None:
    response = refused.response
    code, message = "WS_HANDSHAKE_FAILED", response.reason_phrase
    try:
        body = json.loads(response.body or b"")
        code, message = str(body["code"]), str(body["message"])
    except (ValueError, KeyError, TypeError):  # not of Aquilia: a proxy's page, perhaps
        pass
    after = response.headers.get("Retry-After", "")
    delay = min(float(after), _RETRY_AFTER_AT_MOST) if after.isascii() and after.isdigit() else None
    session.refused(response.status_code, code, message, now, retry_after=delay)
