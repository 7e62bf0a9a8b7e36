"""One WebSocket of a client, by the library `websockets`, and what its failures mean."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidMessage,
    InvalidProxy,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
)
from websockets.proxy import parse_proxy
from websockets.typing import Subprotocol

from aquilia.client.address import checked_headers, checked_url, named_url
from aquilia.client.faults import ConnectionEnded
from aquilia.client.session import Session
from aquilia.clock import Clock

__all__ = ["Dialer", "Link"]

_RETRY_AFTER_AT_MOST = 3600.0
_MESSAGE_AT_MOST = 300
"""Characters of what a server says of its refusal."""
_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")


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


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Follow none: the token would go wherever the redirect leads."""
        return exc


class Dialer:
    """Opens links to one address. What goes wrong is told to the session.

    Raises:
        ValueError: the address, the headers or the proxy cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        subprotocol: str,
        headers: Mapping[str, str],
        ssl: ssl.SSLContext | None,
        proxy: str | bool | None,
        open_timeout: float,
        close_timeout: float,
        max_message_size: int,
        clock: Clock,
    ) -> None:
        self.url = checked_url(url)
        self.name = named_url(url)
        """The address, as it may be told."""
        self._subprotocol = subprotocol
        self._open_timeout = open_timeout
        self._clock = clock
        self._options: dict[str, Any] = {
            "subprotocols": [Subprotocol(subprotocol)],
            "additional_headers": checked_headers(headers),
            "proxy": _checked_proxy(proxy),
            "open_timeout": open_timeout,
            "close_timeout": close_timeout,
            "max_size": max_message_size,
            # The protocol's own heartbeat does it: it reaches the server through proxies and foreign ASGI
            # servers, and follows the session's clock. Two of them would race.
            "ping_interval": None,
            "create_connection": Link,
        }
        if ssl is not None:
            if not url.startswith("wss:"):
                raise ValueError(f"{self.name} is without TLS, and `ssl` was given: say wss://")
            self._options["ssl"] = ssl

    async def dial(self, session: Session) -> Link | None:
        """A link that speaks the session's subprotocol; None where the session was told why there is none."""
        now = self._clock.monotonic
        try:
            link = await _Connect(self.url, **self._options)
        except InvalidStatus as refused:
            self._tell_refusal(session, refused)
        except NegotiationError as error:
            session.unusable(self._not_spoken(str(error)), now())
        except InvalidProxy as error:  # of the environment
            session.unusable(self._out_of_reach(f"its proxy cannot be used: {error.msg}"), now())
        except InvalidURI as error:  # its own words show all of it
            session.unusable(self._out_of_reach(error.msg), now())
        except ImportError as error:  # a proxy of SOCKS wants a library
            session.unusable(self._out_of_reach(str(error)), now())
        except (OSError, InvalidHandshake, EOFError) as error:  # a timeout is an OSError
            told = f"{self.name} cannot be reached: {self._explained(error)}"
            session.unreachable(told, now(), cause=error)
        else:
            assert isinstance(link, Link)
            if link.subprotocol == self._subprotocol:
                return link
            link.abort()
            session.unusable(self._not_spoken("it chose no subprotocol"), now())
        return None

    def _out_of_reach(self, problem: str) -> ConnectionEnded:
        return ConnectionEnded(f"{self.name} cannot be reached: {problem}")

    def _explained(self, error: Exception) -> str:
        secure = self.url.startswith("wss:")
        if isinstance(error, TimeoutError) and error.errno is None:
            return f"no answer to the handshake within {self._open_timeout:g} s"
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted, {error.verify_message}: `ssl=` takes a context that trusts it"
        if isinstance(error, ssl.SSLError):
            return f"{error}; if it is without TLS, say ws://"
        if isinstance(error, InvalidMessage):
            return f"{error}" + ("" if secure else "; if it wants TLS, say wss://")
        return str(error) or type(error).__name__

    def _not_spoken(self, told: str) -> ConnectionEnded:
        return ConnectionEnded(
            f"{self.name} does not speak {self._subprotocol}: {told}. This client speaks protocol v1 only, "
            "not its plain profile"
        )

    def _tell_refusal(self, session: Session, refused: InvalidStatus) -> None:
        response = refused.response
        code, message = _told(response.body) or ("WS_HANDSHAKE_FAILED", response.reason_phrase)
        where = response.headers.get_all("Location")
        if 200 <= response.status_code < 300:
            message += " (there is no WebSocket at this address)"
        elif 300 <= response.status_code < 400 and where:
            message += f" (it points to {where[0][:_MESSAGE_AT_MOST]!r}, where this client does not follow)"
        after = response.headers.get_all("Retry-After")
        delay = _delay(after[0], self._clock.time()) if after else None
        now = self._clock.monotonic()
        session.refused(response.status_code, code, message, now, retry_after=delay)


def _checked_proxy(proxy: str | bool | None) -> str | bool | None:
    if isinstance(proxy, str):
        try:
            parse_proxy(proxy)
        except InvalidProxy as error:
            raise ValueError(f"the proxy cannot be used: {error.msg}") from None
    return proxy or None


def _told(body: bytes | bytearray | None) -> tuple[str, str] | None:
    """What Aquilia says of a refusal; None where another said it, a proxy perhaps."""
    try:
        said = json.loads(body or b"")
        code, message = said["code"], said["message"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not (isinstance(code, str) and isinstance(message, str) and _CODE.fullmatch(code)):
        return None
    return code, message[:_MESSAGE_AT_MOST]


def _delay(after: str, today: float) -> float | None:
    """The seconds of a `Retry-After`, which may be a date (RFC 9110 section 10.2.3); None where it is neither."""
    if after.isascii() and after.isdigit():
        return min(float(after), _RETRY_AFTER_AT_MOST)
    try:
        moment = parsedate_to_datetime(after)
        seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - today
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, seconds), _RETRY_AFTER_AT_MOST)
