"""Signatures of what nodes say to one another by a broker: HMAC-SHA-256 (RFC 2104) with a secret of the application.

Signed are the bytes of a publication, with the application's prefix and the kind of room: nobody without the secret
makes one, changes one, or passes one off as that of another room. Who may write to the broker can still repeat what
was said, keep it back, or change its order; and the values of the store are not signed.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

__all__ = ["BUS_SECRET", "BUS_SECRET_FILE", "SignatureError", "Signer", "bus_signer"]

BUS_SECRET = "AQ_WS_BUS_SECRET"
"""The variable of the environment that has the secret, or several with commas between them."""
BUS_SECRET_FILE = "AQ_WS_BUS_SECRET_FILE"
"""The one that names a file with them, one a line."""
LEAST_SECRET = 32
HEAD = b"\xc1\x01"
"""A byte with which no MessagePack begins, and the version of the signature."""
_SIZE = 32

Kind = Literal["plain", "log"]


class SignatureError(ValueError):
    """What is not signed by the application."""


class Signer:
    """Of several secrets the first signs, and all verify: so one can be replaced by another."""

    def __init__(self, secrets: Sequence[bytes]) -> None:
        self._keys = [hmac.new(secret, digestmod=sha256) for secret in secrets]

    def sign(self, data: bytes, prefix: str, kind: Kind) -> bytes:
        """The same bytes, with a signature before them."""
        return HEAD + _digest(self._keys[0], data, prefix, kind) + data

    def verified(self, data: bytes, prefix: str, kind: Kind) -> bytes:
        """What was signed. How long it takes says nothing of the bytes of a signature.

        Raises:
            SignatureError: it is not signed, or with another secret.
        """
        if not data.startswith(HEAD):
            raise SignatureError("it is not signed")
        start = len(HEAD) + _SIZE
        said, rest = data[len(HEAD) : start], data[start:]
        for key in self._keys:
            if hmac.compare_digest(said, _digest(key, rest, prefix, kind)):
                return rest
        raise SignatureError("its signature is wrong")


def _digest(key: hmac.HMAC, data: bytes, prefix: str, kind: str) -> bytes:
    mac = key.copy()
    mac.update(f"{prefix} {kind} ".encode())  # a prefix has no space
    mac.update(data)
    return mac.digest()


def bus_signer() -> Signer | None:
    """What signs with the secrets of the environment; None: there are none, and nothing is signed.

    Raises:
        ValueError: one is too short, the file cannot be read, or both variables are set. No secret is shown.
    """
    said, file = os.environ.get(BUS_SECRET, ""), os.environ.get(BUS_SECRET_FILE, "")
    if said and file:
        raise ValueError(f"{BUS_SECRET} and {BUS_SECRET_FILE} are both set: one is needed")
    where, parts = BUS_SECRET, said.split(",")
    if file:
        where = f"{BUS_SECRET_FILE}={file}"
        try:
            parts = Path(file).read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no text"
            raise ValueError(f"{where}: it cannot be read: {reason}") from None
    secrets = [part.strip().encode() for part in parts if part.strip()]
    if (said or file) and not secrets:
        raise ValueError(f"{where}: there is no secret in it")
    for number, secret in enumerate(secrets, 1):
        if len(secret) < LEAST_SECRET:
            raise ValueError(
                f"{where}: secret {number} has {len(secret)} bytes, and {LEAST_SECRET} are needed; make one with: "
                "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
    return Signer(secrets) if secrets else None
