"""An issuer of tokens: its keys, its server, and a clock for those who wait for its next keys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from joserfc import jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from aquilia import Fault, JWTAuthManager
from aquilia.clock import now

KINDS: dict[str, Any] = {
    "RS256": RSAKey.import_key(rsa.generate_private_key(65537, 2048)),
    "PS512": RSAKey.import_key(rsa.generate_private_key(65537, 2048)),
    "ES256": ECKey.import_key(ec.generate_private_key(ec.SECP256R1())),
    "ES384": ECKey.import_key(ec.generate_private_key(ec.SECP384R1())),
    "ES512": ECKey.import_key(ec.generate_private_key(ec.SECP521R1())),
    "Ed25519": OKPKey.import_key(ed25519.Ed25519PrivateKey.generate()),
    "EdDSA": OKPKey.import_key(ed25519.Ed25519PrivateKey.generate()),
}

OTHER = RSAKey.import_key(rsa.generate_private_key(65537, 2048)).as_dict(private=False)


def public(algorithm: str, kid: str, **fields: Any) -> dict[str, Any]:
    return {**KINDS[algorithm].as_dict(private=False), "kid": kid, **fields}


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def token(algorithm: str, kid: str | None, key: Any = None, **claims: Any) -> str:
    header = {"alg": algorithm} if kid is None else {"alg": algorithm, "kid": kid}
    registry = JWSRegistry(algorithms=[algorithm], strict_check_header=False)
    said = {"sub": "ann", "exp": now() + 1000, **claims}
    with warnings.catch_warnings(action="ignore", category=SecurityWarning):  # of EdDSA, by RFC 9864
        return jwt.encode(header, said, key or KINDS[algorithm], registry=registry)


class Hands:
    """The hands of a clock, which the test moves."""

    def __init__(self) -> None:
        self.moved = 1000.0

    def monotonic(self) -> float:
        return self.moved


class Issuer:
    """A server that answers each request with `answer`, raw bytes, or hangs where that is None."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: bytes | None = b""
        self.answering = asyncio.Event()
        self.answering.set()
        self.arrived = asyncio.Event()
        self.url = ""
        self._open: set[asyncio.StreamWriter] = set()

    def publish(self, *keys: dict[str, Any]) -> None:
        self.say(jwks(*keys))

    def say(self, body: bytes, status: str = "200 OK", *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
        self.answer = "\r\n".join([*lines, "", ""]).encode() + body

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            self.arrived.set()
            await self.answering.wait()
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
                writer.close()
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    def abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def serving(issuer: Issuer, tls: ssl.SSLContext | None = None) -> AsyncIterator[Issuer]:
    server = await asyncio.start_server(issuer.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "http" if tls is None else "https"
    issuer.url = f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks.json"
    try:
        yield issuer
    finally:
        server.close()
        issuer.abort()
        await asyncio.sleep(0)  # its transports end in the next turn


async def refusal(manager: JWTAuthManager, token: str) -> str:
    with pytest.raises(Fault) as refused:
        await manager.authenticate(token)
    return refused.value.code


async def accepted(manager: JWTAuthManager, token: str) -> bool:
    return (await manager.authenticate(token)).id == "ann"
