"""The files that an adapter's URL names: certificates in PEM for TLS, and passwords.

They are read when the application starts, so that a wrong one is told there, and anew for each connection:
certificates and passwords are renewed while it runs. No message shows what stands in a file with a secret.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

__all__ = ["bytes_of", "secret_of", "tls_context"]


def bytes_of(option: str, file: Path) -> bytes:
    """What stands in the file that an option names.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return file.read_bytes()
    except OSError as error:
        raise ValueError(f"{option}={file}: the file cannot be read: {error.strerror}") from None


def secret_of(option: str, file: Path) -> str:
    """The one line in a file, without its end, which editors and `echo` leave there.

    Raises:
        ValueError: it cannot be read, or is not one line.
    """
    try:
        text = bytes_of(option, file).decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ValueError(f"{option}={file}: the file is no text in UTF-8") from None
    if not text or "\n" in text:
        raise ValueError(f"{option}={file}: one line is needed, which is the whole file")
    return text


def tls_context(files: Mapping[str, Path]) -> ssl.SSLContext:
    """What a client knows of TLS: the CA in the file `ca`, or those of the system, and its own `cert` with `key`.

    Raises:
        ValueError: a file cannot be read, or is not what its option needs.
    """
    ca = files.get("ca")
    if ca is None:
        context = ssl.create_default_context()
    else:
        text = bytes_of("ca", ca)
        try:
            context = ssl.create_default_context(cadata=text.decode("ascii"))
        except (ssl.SSLError, UnicodeDecodeError, ValueError):
            raise ValueError(f"ca={ca}: the file has no certificate of a CA in PEM") from None
    if cert := files.get("cert"):
        key = files.get("key", cert)
        for option, file in (("cert", cert), ("key", key)):
            bytes_of(option, file)
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
    if b"PRIVATE KEY" not in bytes_of("key", key):
        return f"key={key}: the file has no private key in PEM; name the one that has with key=FILE"
    return f"cert={cert}: no certificate and key in PEM can be read from it and {key}"
