"""The certificate that a server shows: read from its files, checked, and read again when they change.

Each handshake takes what the files had last that was in order. A new certificate gets a context of its own, and not
a place in the one that serves: loaded into that, one of another kind of key would stand beside the old one, and a
pair that does not fit would spoil it. Connections that are open keep theirs.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from aquilia import clock

__all__ = ["Certificate", "Files", "TLSError"]

INTERVAL = 2.0
"""Seconds between two looks at the files."""

_LOGGER = logging.getLogger("aquilia.tls")
_NO_FIT = frozenset({"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"})


class TLSError(Exception):
    """No certificate can be had from these files; the message names the file, and says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Files:
    """Where a certificate is, in PEM: its chain, its key unless that is in the same file, and the key's password."""

    chain: Path
    key: Path | None = None
    password: Path | None = None

    @property
    def secret(self) -> Path:
        """The file with the key."""
        return self.key or self.chain

    def contents(self) -> list[bytes]:
        """Of each file.

        Raises:
            TLSError: one is missing, or cannot be read.
        """
        return [_bytes(file) for file in (self.chain, self.secret, self.password) if file is not None]


class Certificate:
    """What a server shows to its clients, kept up to date with its files.

    Raises:
        TLSError: a file is missing, or not what it should be.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._complaint = ""
        contents = files.contents()
        self._digest = _digest(contents)
        self.context = self._shown = _context(files)
        """The context for a server's listeners, over all changes."""
        self.context.sni_callback = self._choose  # asked for a client that says no name as well
        self.warnings = list(_warnings(files, contents[0]))
        """What is doubtful about the files, and keeps nothing from serving."""

    def look(self) -> None:
        """Take the files up if they have changed. What is wrong with them is logged once, and tried again."""
        try:
            contents = self._files.contents()
            if (digest := _digest(contents)) != self._digest:
                self._shown = _context(self._files)
                self._digest = digest  # a change behind it is seen at the next look
                _LOGGER.info("TLS: took up the changed certificate in %s", self._files.chain)
                for warning in _warnings(self._files, contents[0]):
                    _LOGGER.warning("TLS: %s", warning)
            self._complaint = ""
        except TLSError as error:
            if str(error) != self._complaint:
                self._complaint = str(error)
                _LOGGER.error("%s; the certificate from before is kept until this is mended", error)

    async def follow(self) -> None:
        """Look every two seconds, for ever."""
        while True:
            await asyncio.sleep(INTERVAL)
            await asyncio.to_thread(self.look)  # the files may be those of a network

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = self._shown


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise TLSError(f"TLS: there is no file {file}") from None
    except OSError as error:
        raise TLSError(f"TLS: {file} cannot be read: {error.strerror or error}") from None


def _digest(contents: list[bytes]) -> bytes:
    return hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in contents)).digest()


def _context(files: Files) -> ssl.SSLContext:
    """TLS 1.2 and newer with the ciphers of OpenSSL's defaults, and this certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])  # WebSockets over HTTP/2 are not spoken here
    password = _Password(files.password)
    try:
        context.load_cert_chain(files.chain, files.key, password)
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise TLSError(f"TLS: {_problem(files, error, password)}") from error
    return context


class _Password:
    """The password of a key. Without it OpenSSL would ask for one at the terminal."""

    def __init__(self, file: Path | None) -> None:
        self.asked = False
        self._password = b"" if file is None else _bytes(file).rstrip(b"\r\n")
        if file is not None and not self._password:
            raise TLSError(f"TLS: {file} is empty; it holds the password of the key, in one line")

    def __call__(self) -> bytes:
        self.asked = True
        return self._password


def _problem(files: Files, error: Exception, password: _Password) -> str:
    if password.asked and files.password is None:
        return f"{files.secret} is encrypted: --ssl-password-file names the file with its password"
    if password.asked:
        return f"the password in {files.password} does not open {files.secret}"
    if getattr(error, "reason", None) in _NO_FIT:
        return f"{files.secret} is not the key of {files.chain}"
    if b"-----BEGIN CERTIFICATE-----" not in _bytes(files.chain):
        return f"{files.chain} holds no certificate in PEM"
    if b"PRIVATE KEY-----" not in _bytes(files.secret):
        named = "" if files.key else ": --ssl-keyfile names the file that does"
        return f"{files.secret} holds no key in PEM{named}"
    return f"{files.chain} and {files.secret} are not a whole certificate and its key ({error})"


def _warnings(files: Files, chain: bytes) -> Iterator[str]:
    yield from _out_of_time(files.chain, chain, datetime.fromtimestamp(clock.now(), UTC))
    for file in (files.secret, files.password):
        if file is not None and _readable_by_all(file):
            yield f"every user of this machine can read {file}: chmod 600 keeps it to its owner"
    if files.password is not None and not _encrypted(files):
        yield f"{files.secret} is not encrypted, so {files.password} is not needed"


def _out_of_time(file: Path, chain: bytes, now: datetime) -> Iterator[str]:
    try:
        certificates = x509.load_pem_x509_certificates(chain)
    except ValueError:  # stricter than OpenSSL, which has taken it
        return
    for certificate in certificates:
        subject = certificate.subject.rfc4514_string() or "a certificate"
        if certificate.not_valid_after_utc < now:
            yield f"{subject} in {file} has expired, on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
        elif certificate.not_valid_before_utc > now:
            yield (
                f"{subject} in {file} is not valid yet, before "
                f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
            )


def _readable_by_all(file: Path) -> bool:
    try:
        return os.name == "posix" and bool(file.stat().st_mode & 0o004)
    except OSError:  # gone in the meantime, which the next look tells of
        return False


def _encrypted(files: Files) -> bool:
    return b"ENCRYPTED" in _bytes(files.secret)
