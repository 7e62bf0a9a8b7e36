"""One HTTP GET of a small document, in a thread: bounded in time and size, and by TLS all the way."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urljoin, urlsplit

from aquilia.loopback import is_loopback

__all__ = ["MAX_BYTES", "Fetch", "FetchError", "url_problem"]

MAX_BYTES = 1 << 19
"""Bytes of a document."""
REDIRECTS = 3


class FetchError(Exception):
    """Why a document could not be had."""


def url_problem(url: str) -> str | None:
    """Why nothing can be fetched from here, or should be."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is no URL"
    if not host:
        return "it names no host"
    if parts.username is not None or parts.password is not None:
        return "it has a login, which would be in the log"
    if parts.fragment:
        return "it has a fragment (#…)"
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)):
        return None
    return "https:// is needed: else whoever is on the way gives keys of his own (http:// is for loopback)"


class Fetch:
    """One GET. `run` belongs into a thread; `abort` may be called from any, and makes it fail soon."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._aborted = False

    def abort(self) -> None:
        """It has taken too long: each read alone may be in time."""
        self._aborted = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def run(self) -> bytes:
        """The document, of an answer with status 200; redirects are followed to https alone.

        Raises:
            FetchError: it cannot be had.
        """
        url = self._url
        try:
            for _ in range(REDIRECTS + 1):
                answer = self._get(url)
                if isinstance(answer, bytes):
                    return answer
                url = answer
        except FetchError:
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise FetchError(f"{type(reason).__name__}: {reason}") from None
        raise FetchError(f"it redirects more than {REDIRECTS} times")

    def _get(self, url: str) -> bytes | str:
        """The document, or where it has moved to."""
        if self._aborted:
            raise FetchError("it took too long")
        headers = {"accept": "application/jwk-set+json, application/json", "user-agent": "aquilia"}
        try:
            with self._opener(url).open(
                urllib.request.Request(url, headers=headers), timeout=self._timeout
            ) as answer:
                if answer.status != 200:
                    raise FetchError(f"it answers with status {answer.status}")
                data: bytes = answer.read(MAX_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                return self._moved(url, error)
        if len(data) > MAX_BYTES:
            raise FetchError(f"it has more than {MAX_BYTES} bytes")
        return data

    def _moved(self, url: str, answer: urllib.error.HTTPError) -> str:
        location = answer.headers.get("location")
        if answer.code not in (301, 302, 303, 307, 308) or location is None:
            raise FetchError(f"it answers with status {answer.code}")
        target = urljoin(url, str(location))
        if urlsplit(target).scheme != "https" or url_problem(target):
            raise FetchError("it redirects to what is no https:// URL")
        return target

    def _opener(self, url: str) -> urllib.request.OpenerDirector:
        """What speaks HTTP and HTTPS and nothing else; through the proxy of the environment, but not to loopback."""
        opener = urllib.request.OpenerDirector()
        local = is_loopback(urlsplit(url).hostname or "")
        opener.add_handler(urllib.request.ProxyHandler({} if local else None))
        opener.add_handler(_Http(self))
        opener.add_handler(_Https(self, context=ssl.create_default_context()))
        opener.add_handler(urllib.request.HTTPErrorProcessor())
        opener.add_handler(urllib.request.HTTPDefaultErrorHandler())
        return opener

    def connected(self, connection: http.client.HTTPConnection) -> None:
        """The socket that `abort` is to end."""
        self._socket = connection.sock
        if self._aborted:
            self.abort()


class _Http(urllib.request.HTTPHandler):
    def __init__(self, fetch: Fetch) -> None:
        super().__init__()
        self._fetch = fetch

    def http_open(self, req: urllib.request.Request) -> Any:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return _watched(http.client.HTTPConnection(host, **options), self._fetch)

        return self.do_open(connection, req)


class _Https(urllib.request.HTTPSHandler):
    def __init__(self, fetch: Fetch, context: ssl.SSLContext) -> None:
        super().__init__(context=context)
        self._fetch, self._tls = fetch, context

    def https_open(self, req: urllib.request.Request) -> Any:
        def connection(host: str, **options: Any) -> http.client.HTTPConnection:
            return _watched(http.client.HTTPSConnection(host, context=self._tls, **options), self._fetch)

        return self.do_open(connection, req)


def _watched(connection: http.client.HTTPConnection, fetch: Fetch) -> http.client.HTTPConnection:
    connect = connection.connect

    def and_tell() -> None:
        connect()
        fetch.connected(connection)

    connection.connect = and_tell  # type: ignore[method-assign]
    return connection
