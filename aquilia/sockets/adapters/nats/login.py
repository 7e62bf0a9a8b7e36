"""What one connection to NATS brings along: its TLS context and its login, out of the files that the URL names."""

from __future__ import annotations

import base64
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aquilia.sockets.adapters.files import bytes_of, secret_of, tls_context
from aquilia.sockets.adapters.nats.url import Target

__all__ = ["connect_options"]

NKEYS = "needs the library nkeys: pip install 'aquilia[nats]'"
_SEED = re.compile(rb"\bSU[A-Z2-7]{56}\b")
"""A user's seed, as NATS' tools write it: a letter for what it is, and one for whose."""
_JWT = re.compile(rb"BEGIN NATS USER JWT-+\s+(\S+)\s")


def connect_options(target: Target) -> dict[str, Any]:
    """The words for `connect` of nats-py. It reads files.

    Raises:
        ValueError: a file cannot be read, or is not what its option needs.
    """
    options: dict[str, Any] = {"user": target.user, "password": target.password, "token": target.token}
    if target.tls:
        options["tls"] = tls_context(target.files)
    for name, key in (("password_file", "password"), ("token_file", "token")):
        if file := target.files.get(name):
            options[key] = secret_of(name, file)
    if file := target.files.get("creds"):
        options |= _credentials(file)
    if file := target.files.get("nkey"):
        options["nkeys_seed_str"] = _seed("nkey", file)
    return options


def _seed(option: str, file: Path) -> str:
    found = _SEED.search(bytes_of(option, file))
    if found is None:
        raise ValueError(f"{option}={file}: the file has no seed of a user in it, which begins with SU")
    if find_spec("nkeys") is None:
        raise ValueError(f"{option}={file}: it {NKEYS}")
    return found[0].decode()


def _credentials(file: Path) -> dict[str, Any]:
    jwt = _JWT.search(bytes_of("creds", file))
    if jwt is None:
        raise ValueError(
            f"creds={file}: the file has no JWT of a NATS user; `nsc generate creds` makes one that has"
        )
    seed = _seed("creds", file)

    def sign(nonce: str) -> bytes:
        import nkeys  # type: ignore[import-untyped]

        pair = nkeys.from_seed(bytearray(seed.encode()))
        try:
            return base64.b64encode(pair.sign(nonce.encode()))
        finally:
            pair.wipe()

    return {"user_jwt_cb": lambda: bytearray(jwt[1]), "signature_cb": sign}
