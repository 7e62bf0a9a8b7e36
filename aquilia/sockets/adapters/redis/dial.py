"""How a connection to a Redis server is made: TLS, login, what server it is, and in words why it would not do."""

from __future__ import annotations

import asyncio
import contextlib
import re
import ssl
from typing import Any

from aquilia.sockets.adapters.redis.link import Link, Refusal
from aquilia.sockets.adapters.redis.login import Login
from aquilia.sockets.adapters.redis.url import Target

__all__ = ["CONNECT_TIMEOUT", "Address", "DialError", "ask_sentinel", "dial", "shown"]

CONNECT_TIMEOUT = 2.0
"""Seconds that one server may take to be connected to, and to let us in."""
OLDEST = (7, 0)
"""The first version with sharded channels, and with scripts that say what they need."""

Address = tuple[str, int]


class DialError(Exception):
    """Why a server would not do, in words for who runs the application; `refused`, if somebody has to act."""

    def __init__(self, words: str, *, refused: bool = False) -> None:
        super().__init__(words)
        self.refused = refused


def shown(address: Address) -> str:
    """An address as one writes it."""
    return f"{address[0]}:{address[1]}"


async def dial(target: Target, address: Address, login: Login, *, replica: bool = False) -> Link:
    """A link to a server that is what the URL says, and takes what is written, unless it may be a `replica`.

    Raises:
        DialError: it cannot be reached, or would not do.
    """
    where = f"Redis at {shown(address)}"
    link = await _connected(address, login.context, where)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            said = await _hello(link, where, login.user, login.password, f"aquilia-{target.prefix}")
            _require(target, where, said, replica=replica)
            if target.db:
                await link.ask("SELECT", target.db)
    except BaseException as error:
        link.end()
        if isinstance(error, DialError) or not isinstance(error, Exception):
            raise
        raise _explained(error, where, target) from error
    return link


async def ask_sentinel(target: Target, address: Address, login: Login) -> Address | None:
    """Where the master is, as far as one sentinel knows; None: it knows no service of that name.

    Raises:
        DialError: it cannot be reached, or refuses the login.
    """
    where = f"the sentinel at {shown(address)}"
    link = await _connected(address, login.context, where)
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            said = await _hello(
                link, where, login.sentinel_user, login.sentinel_password, f"aquilia-{target.prefix}"
            )
            if said.get(b"mode") != b"sentinel":
                raise DialError(
                    f"{where} is a Redis server, and no sentinel: redis:// is for servers, redis+sentinel:// "
                    "for sentinels, which listen on port 26379",
                    refused=True,
                )
            found = await link.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", target.service)
    except (OSError, TimeoutError, Refusal) as error:
        raise _explained(error, where, target) from error
    finally:
        link.end()
    return None if found is None else (found[0].decode(), int(found[1]))


async def _connected(address: Address, context: ssl.SSLContext | None, where: str) -> Link:
    loop = asyncio.get_running_loop()
    host = address[0].strip("[]")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            _, link = await loop.create_connection(Link, host, address[1], ssl=context)
    except ssl.SSLCertVerificationError as error:
        raise DialError(f"{where}: {_distrust(error)}", refused=True) from error
    except ssl.SSLError as error:
        raise DialError(
            f"{where}: TLS fails ({error.reason or error}): give the server a tls-port, or say redis in the place "
            "of rediss",
            refused=True,
        ) from error
    except TimeoutError as error:
        words = f"{where}: no connection within {CONNECT_TIMEOUT:g} s"
        if context is not None:  # a server without TLS waits for the rest of what it takes for a command
            words += ": if it has no TLS, say redis in the place of rediss"
        raise DialError(words) from error
    except OSError as error:
        raise DialError(f"{where} cannot be reached: {error.strerror or error}") from error
    return link


def _distrust(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in (
        62,
        64,
    ):  # OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH
        return f"its certificate is for another host ({error.verify_message}): use a name that stands in it"
    return f"its certificate is not trusted ({error.verify_message}): name the CA that signed it with ca=FILE"


async def _hello(
    link: Link, where: str, user: str | None, password: str | None, name: str
) -> dict[bytes, Any]:
    words: list[str] = ["HELLO", "3"]
    if password is not None:
        words += ["AUTH", user or "default", password]
    said = await link.ask(*words, "SETNAME", name)
    if not isinstance(said, dict) or not isinstance(said.get(b"version"), bytes):
        raise DialError(f"{where}: it is no Redis server, by what it answers to HELLO", refused=True)
    return said


def _require(target: Target, where: str, said: dict[bytes, Any], *, replica: bool) -> None:
    version, mode = said[b"version"].decode("ascii", "replace"), said.get(b"mode")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is not None and (int(numbers[1]), int(numbers[2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise DialError(f"{where} is version {version}: Aquilia needs {needed} or later", refused=True)
    scheme = "rediss" if target.tls else "redis"
    if mode == b"sentinel":
        raise DialError(
            f"{where} is a sentinel: write {scheme}+sentinel://…?service=NAME, or name the server",
            refused=True,
        )
    if (mode == b"cluster") != (target.mode == "cluster"):
        kind = "a node of a Redis Cluster" if mode == b"cluster" else "no node of a Redis Cluster"
        right = f"{scheme}+cluster://" if mode == b"cluster" else f"{scheme}://"
        raise DialError(f"{where} is {kind}: write {right}…", refused=True)
    if said.get(b"role") != b"master" and not replica:
        words = f"{where} is a replica, which takes no writes"
        if target.mode == "single":
            raise DialError(f"{words}: name its master, or write {scheme}+sentinel://…", refused=True)
        raise DialError(words)  # it may be about to become another


def _explained(error: Exception, where: str, target: Target) -> DialError:
    if isinstance(error, TimeoutError):
        return DialError(f"{where}: no answer within {CONNECT_TIMEOUT:g} s")
    words = str(error)
    code = words.partition(" ")[0]
    if isinstance(error, Refusal):
        told = _advice(code, words, target)
        return DialError(f"{where}: {told}", refused=code not in ("LOADING", "MASTERDOWN", "BUSY"))
    if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
        return DialError(
            f"{where} wants a certificate of us: name it with cert=FILE and key=FILE", refused=True
        )
    broken = f"{where} ended the connection"
    if not target.tls:
        broken += ": if it wants TLS, say rediss in the place of redis"
    with contextlib.suppress(AttributeError):
        words = error.strerror or words  # type: ignore[attr-defined]
    return DialError(f"{broken} ({words})")


def _advice(code: str, words: str, target: Target) -> str:
    if code == "WRONGPASS":
        return "the login is refused: the user or the password is wrong"
    if code == "NOAUTH":
        return "it wants a login: write it before the host, as in redis://user:password@host, or use password_file"
    if code == "NOPERM":
        return f"this login may not begin ({words}): allow +hello +client|setname +select"
    if code == "DENIED":
        return "it is in protected mode: give it a password (requirepass), or bind it to 127.0.0.1"
    if "unknown command" in words.lower() or code == "NOPROTO":
        return f"it is too old: Aquilia needs version {'.'.join(map(str, OLDEST))} or later ({words})"
    if "AUTH" in words and "without any password" in words:
        return "it has no password for this user: leave the login out of the URL, or set one (requirepass)"
    if "max number of clients" in words:
        return (
            "it has as many clients as its setting `maxclients` says: raise it, or see CLIENT LIST for them"
        )
    if "DB index" in words:
        return f"it has no database {target.db}: there are as many as its setting `databases` says"
    return words
