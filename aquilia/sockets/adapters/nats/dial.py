"""How a connection to NATS is made: one host after the other, and in words why none of them would do."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import ssl
from collections.abc import Callable
from typing import Any

from aquilia.sockets.adapters.nats.login import connect_options
from aquilia.sockets.adapters.nats.url import Target

__all__ = ["MISSING", "DialError", "abort", "close", "dial"]

CONNECT_TIMEOUT = 5.0
"""Seconds that a connection may take where there is one host."""
NEXT_HOST = 2.0
"""Seconds after which the next of several hosts is tried."""
CLOSE = 2.0
"""Seconds that a connection may take to end before it is cut."""
FLUSH = 0.5
"""Seconds that what is said waits where 2 MiB wait already. nats-py's own wait does not end with the connection."""
PING = 5
"""Seconds between pings; a server that leaves two of them without answer is given up."""
OLDEST = (2, 11)
"""The first version of nats-server with a time to live for single messages, and with direct reads of many."""

MISSING = "the NATS adapter needs nats-py: pip install 'aquilia[nats]'"

_BAD_NAME = (62, 64)
"""OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH."""
_NO_CA = (18, 19, 20, 21)
"""A certificate signed by itself, a chain that ends so, and two for an unknown issuer."""


class DialError(Exception):
    """Why no host would do, in words for who runs the application; the `weight` of its reason."""

    def __init__(self, words: str, weight: int = 0) -> None:
        super().__init__(words)
        self.weight = weight


async def dial(target: Target, on_error: Callable[[Exception], None]) -> Any:
    """A client of nats-py that is connected to one of the hosts, which are tried in an order by chance.

    Raises:
        DialError: none of them would do.
        ImportError: nats-py is not installed.
    """
    try:
        options = await asyncio.to_thread(connect_options, target)
    except ValueError as error:
        raise DialError(f"NATS at {target}: {error}") from None
    failures: list[DialError] = []
    for server in random.sample(target.servers, len(target.servers)):
        try:
            return await _connect(target, server, options, on_error)
        except DialError as error:
            failures.append(error)
    # A host that refuses the login says more than one that is down.
    heaviest = max(failure.weight for failure in failures)
    words = [str(failure) for failure in failures if failure.weight == heaviest]
    raise DialError("; ".join(sorted(words)), heaviest)


async def close(client: Any) -> None:
    """End a client of nats-py, whatever state it is in."""
    with contextlib.suppress(Exception):
        if client._reading_task is not None:
            async with asyncio.timeout(CLOSE):
                await client.close()
    # Where TLS has failed, its own close waits for ever: for a stream that is told of its end no more.
    abort(client)


def abort(client: Any) -> None:
    """Cut its connection, if it has one."""
    with contextlib.suppress(Exception):
        client._transport._bare_io_writer.transport.abort()


async def _connect(
    target: Target, server: str, options: dict[str, Any], on_error: Callable[[Exception], None]
) -> Any:
    from aquilia.sockets.adapters.nats.client import DemandingClient

    client = DemandingClient()
    told: list[Exception] = []

    async def note(error: Exception) -> None:
        if client.is_connected:
            on_error(error)
        else:
            told.append(error)

    patience = CONNECT_TIMEOUT if len(target.servers) == 1 else NEXT_HOST
    try:
        async with asyncio.timeout(patience):
            await client.connect(
                [server],
                error_cb=note,
                name=f"aquilia {target.prefix}",
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=int(CONNECT_TIMEOUT),
                ping_interval=PING,
                flush_timeout=FLUSH,
                skip_subject_validation=True,  # they are made of a checked prefix and of encoded names
                **options,
            )
            if not client.is_connected:  # nats-py takes an end behind the login for a success
                raise ConnectionResetError("the server ended the connection")
    except BaseException as error:
        await close(client)
        if not isinstance(error, Exception) or isinstance(error, ImportError):
            raise
        reason = told[-1] if told else error
        raise _refusal(target, server, reason, client._server_info or {}) from error
    version = str(client._server_info.get("version", ""))
    if _older(version):
        await close(client)
        raise DialError(
            f"NATS at {server} is version {version}: Aquilia needs {OLDEST[0]}.{OLDEST[1]} or later", 3
        )
    return client


def _older(version: str) -> bool:
    numbers = re.match(r"(\d+)\.(\d+)", version)
    return numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST


def _refusal(target: Target, server: str, error: Exception, info: dict[str, Any]) -> DialError:
    """What to do about it. `info` is what the server said of itself, if it came to that."""
    from aquilia.sockets.adapters.nats.client import NoTLSError

    where = f"NATS at {server}"
    words = str(error) or type(error).__name__
    if isinstance(error, NoTLSError):
        return DialError(
            f"{where}: the server has no TLS: give it a certificate, or say nats:// in the place of tls://", 2
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return DialError(f"{where}: {_distrust(target, error)}", 2)
    broken = isinstance(error, (ConnectionError, ssl.SSLError))
    if broken and info.get("tls_verify"):
        return DialError(f"{where}: {_client_certificate(target)} ({words})", 2)
    if isinstance(error, ssl.SSLError):
        return DialError(f"{where}: TLS fails ({words})", 2)
    # Its refusal is lost where the server ends the connection before it has read all of ours.
    lost = isinstance(error, ConnectionError) and info.get("auth_required")
    if lost or "authorization" in words.lower() or "authentication" in words.lower():
        return DialError(f"{where} refuses the login: {_other_login(target)}", 3)
    if isinstance(error, TimeoutError):
        words = "no answer in time"
    return DialError(f"{where} cannot be reached ({words}): is the server running, and the URL right?")


def _distrust(target: Target, error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _BAD_NAME:
        return f"its certificate is for another name ({error.verify_message}): write in the URL the name that it has"
    if error.verify_code not in _NO_CA:
        return f"its certificate is not accepted: {error.verify_message}"
    ca = target.files.get("ca")
    if ca is not None:
        return (
            f"its certificate is signed by no CA in {ca} (ca={ca}): name the file of the one that signed it"
        )
    if target.tls:
        return "its certificate is signed by no CA that this system knows: name the file of its CA, as in ?ca=FILE"
    return "it asks for TLS, and its certificate is signed by no CA that this system knows: write tls://…?ca=FILE"


def _client_certificate(target: Target) -> str:
    cert = target.files.get("cert")
    if cert is not None:
        return f"the server does not accept the certificate in {cert} (cert={cert})"
    return "the server asks for a certificate of its clients: name one, as in tls://host?cert=FILE&key=FILE"


def _other_login(target: Target) -> str:
    for option in ("creds", "nkey", "token_file", "password_file"):
        if file := target.files.get(option):
            return f"that in {file} ({option}={file}) is not accepted"
    return (
        "give user and password, or the token, in the adapter's URL, or name a file with one: ?creds=FILE, "
        "?nkey=FILE, ?token_file=FILE, or user@host?password_file=FILE"
    )
