"""What one connection to NATS brings along: its TLS context and its login, out of the files that the URL names.

They are read when the application starts, so that a wrong one is told there, and anew for each connection:
certificates and passwords are renewed while it runs. No message shows what stands in a file with a secret.
"""

from __future__ import annotations

import base64
import re
import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from aquilia.sockets.adapters.nats_url import Target

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
        options["tls"] = _context(target)
    for name, key in (("password_file", "password"), ("token_file", "token")):
        if file := target.files.get(name):
            options[key] = _secret(name, file)
    if file := target.files.get("creds"):
        options |= _credentials(file)
    if file := target.files.get("nkey"):
        options["nkeys_seed_str"] = _seed("nkey", file)
    return options


def _read(option: str, file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{option}={file}: the file cannot be read: {error.strerror}") from None


def _secret(option: str, file: Path) -> str:
    """Without the end of its line, which editors and `echo` leave there."""
    try:
        text = _read(option, file).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{option}={file}: the file is no text in UTF-8") from None
    if not text or "\n" in text:
        raise ValueError(f"{option}={file}: one line is needed, which is the whole file")
    return text


def _context(target: Target) -> ssl.SSLContext:
    files = target.files
    ca = files.get("ca")
    if ca is None:
        context = ssl.create_default_context()
    else:
        text = _read("ca", ca)
        try:
            context = ssl.create_default_context(cadata=text.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise ValueError(f"ca={ca}: the file has no certificate of a CA in PEM") from None
    if cert := files.get("cert"):
        key = files.get("key", cert)
        for option, file in (("cert", cert), ("key", key)):
            _read(option, file)
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except (ssl.SSLError, ValueError) as error:
            raise ValueError(_unusable(cert, key, error)) from None
    return context


class _EncryptedError(ValueError):
    """The key asks for a password; OpenSSL would ask for it at the terminal."""


def _no_password() -> str:
    raise _EncryptedError


def _unusable(cert: Path, key: Path, error: Exception) -> str:
    if isinstance(error, _EncryptedError):
        return f"key={key}: the key is encrypted; one without a password is needed"
    if isinstance(error, ssl.SSLError) and error.reason == "KEY_VALUES_MISMATCH":
        return f"key={key}: it is not the key of the certificate in {cert}"
    if b"PRIVATE KEY" not in _read("key", key):
        return f"key={key}: the file has no private key in PEM; name the one that has with key=FILE"
    return f"cert={cert}: no certificate and key in PEM can be read from it and {key}"


def _seed(option: str, file: Path) -> str:
    found = _SEED.search(_read(option, file))
    if found is None:
        raise ValueError(f"{option}={file}: the file has no seed of a user in it, which begins with SU")
    if find_spec("nkeys") is None:
        raise ValueError(f"{option}={file}: it {NKEYS}")
    return found[0].decode()


def _credentials(file: Path) -> dict[str, Any]:
    jwt = _JWT.search(_read("creds", file))
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
