"""How `aq ws` reaches an application that runs: its admin over HTTP, or its nodes by their broker."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlencode, urlsplit

import msgspec

from aquilia.clock import Clock
from aquilia.faults import Fault
from aquilia.loopback import is_loopback
from aquilia.sockets.admin.access import ADMIN_SECRET, ADMIN_SECRET_FILE, admin_secret
from aquilia.sockets.admin.operations import OPERATIONS, ORDER, PATIENCE_OF_GUESTS
from aquilia.sockets.admin.orders import Order
from aquilia.sockets.cluster.guest import guest_at

__all__ = ["ByBroker", "ByHttp", "Unreachable", "Way", "way_to"]

TIMEOUT = 30.0
"""Seconds for each answer of a server."""
ADMIN_TOKEN = "AQ_ADMIN_TOKEN"
"""The environment variable with the token of somebody who has the role of admins."""
DEFAULT_PATH = "/_aquilia/admin"


class Unreachable(Exception):
    """The application cannot be reached, or refuses. Its text says why, and shows no secret."""


class ByHttp:
    """The endpoints of the setting `admin`, with the credential of the environment. Redirections are not followed."""

    def __init__(self, url: str, *, insecure: bool = False) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            raise Unreachable("--url: no host and port can be read from it") from None
        if (
            parts.scheme not in ("http", "https")
            or not host
            or parts.username
            or parts.query
            or parts.fragment
        ):
            raise Unreachable("--url: a URL like http://127.0.0.1:8000 or https://example.com is needed")
        if parts.scheme == "http" and not insecure and not is_loopback(host):
            raise Unreachable(
                "--url: over http:// the secret would be readable on its way: use https://, or --insecure where "
                "nobody can listen"
            )
        credential = _credential()
        self._where = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/") or DEFAULT_PATH
        self._headers = {"authorization": f"Bearer {credential}", "content-type": "application/json"}
        self._connection: http.client.HTTPConnection
        if parts.scheme == "https":
            context = ssl.create_default_context()
            self._connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
        else:
            self._connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    async def call(self, name: str, order: Order) -> Any:
        """Do what is ordered. The answer of the operation.

        Raises:
            Unreachable: it was not done.
        """
        operation = OPERATIONS[name]
        path, body = f"{self._path}/{name}", None
        if operation.acts:
            body = msgspec.json.encode(order)
        elif query := {
            key: value for key, value in msgspec.structs.asdict(order).items() if value is not None
        }:
            path += f"?{urlencode(query)}"
        status, data = self._asked("POST" if operation.acts else "GET", path, body)
        if status != 200:
            raise Unreachable(_refusal(status, data, f"{self._where}{self._path}"))
        try:
            return msgspec.json.decode(data, type=operation.answer)
        except msgspec.DecodeError:
            raise Unreachable(f"{self._where}{self._path} answers something else than an admin") from None

    def _asked(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        try:
            with _interruptible():
                self._connection.request(method, path, body, self._headers)
                response = self._connection.getresponse()
                return response.status, response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._where} cannot be reached: {error or type(error).__name__}") from None


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Have Ctrl-C end what blocks: `asyncio.run` would heed it when that is over."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _credential() -> str:
    """What the environment has for the admin's endpoints.

    Raises:
        Unreachable: nothing, both, or what no header takes. It is not shown.
    """
    token = os.environ.get(ADMIN_TOKEN)
    try:
        secret = admin_secret()
    except ValueError as error:
        raise Unreachable(str(error)) from None
    if token and secret:
        raise Unreachable(f"{ADMIN_TOKEN} and the secret of an admin are both set: leave one of the two out")
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise Unreachable(
            f"{ADMIN_TOKEN} has characters that no header takes: only ASCII without spaces does"
        )
    if not (found := token or secret):
        raise Unreachable(
            f"set {ADMIN_SECRET} or {ADMIN_SECRET_FILE} to the secret of the application's admin, or {ADMIN_TOKEN} "
            "to the token of somebody with its admin_role"
        )
    return found


class _Fault(msgspec.Struct):
    code: str
    message: str
    details: list[Any] = []


def _refusal(status: int, data: bytes, where: str) -> str:
    try:
        fault = msgspec.json.decode(data, type=_Fault)
    except msgspec.DecodeError:
        return (
            f"{where} answers with status {status}: is the application's admin there? See the setting 'admin'"
        )
    if fault.code == "HTTP_NOT_FOUND":
        return f"no admin is served at {where}: the application needs the setting 'admin'"
    details = "".join(f"; {each['path']}: {each['expected']}, got {each['got']}" for each in fault.details)
    return f"{fault.code}: {fault.message}{details}"


class ByBroker:
    """The control channel of the nodes at a broker: whoever may write there needs no other secret."""

    def __init__(self, url: str) -> None:
        try:
            self._guest = guest_at(url, "--adapter-url", Clock())
        except ValueError as error:
            raise Unreachable(str(error)) from None

    async def __aenter__(self) -> Self:
        try:
            await self._guest.start()
        except Fault as fault:
            await self._guest.stop()
            raise Unreachable(str(fault)) from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._guest.stop()

    async def call(self, name: str, order: Order) -> Any:
        """See `ByHttp`."""
        try:
            node = await self._guest.host()
            told = await self._guest.ask(ORDER, (name, order), timeout=PATIENCE_OF_GUESTS, node=node)
        except Fault as fault:
            raise Unreachable(str(fault)) from None
        if node in told.faults:
            raise Unreachable(str(told.faults[node]))
        if node not in told.by_node:
            raise Unreachable(
                f"node {node} does not answer: it may have left, or be of a version without an admin"
            )
        return msgspec.convert(told.by_node[node], OPERATIONS[name].answer)


Way = ByHttp | ByBroker


def way_to(url: str, adapter_url: str | None, *, insecure: bool) -> Way:
    """The way by the broker if its URL is given, else over HTTP.

    Raises:
        Unreachable: what is needed for it is missing or wrong.
    """
    return ByHttp(url, insecure=insecure) if adapter_url is None else ByBroker(adapter_url)
