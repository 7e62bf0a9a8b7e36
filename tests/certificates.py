"""Certificates for servers under test, signed by an authority of the test, and as files that change."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


class Authority:
    """Signs certificates for localhost and 127.0.0.1, and is trusted by the contexts that it makes."""

    def __init__(self) -> None:
        self._authority = trustme.CA()

    @property
    def certificate(self) -> bytes:
        """Its own, in PEM: what whoever trusts it has in a file."""
        return self._authority.cert_pem.bytes()

    def issue(
        self,
        *,
        kind: trustme.KeyType = trustme.KeyType.ECDSA,
        since: datetime.datetime | None = None,
        until: datetime.datetime | None = None,
    ) -> Pair:
        return Pair(
            self._authority.issue_cert(
                "localhost",
                "127.0.0.1",
                key_type=kind,
                not_before=since or NOW - DAY,
                not_after=until or NOW + DAY,
            )
        )

    def trusting(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._authority.configure_trust(context)
        return context


class Pair:
    """A certificate and its key, in PEM."""

    def __init__(self, issued: trustme.LeafCert) -> None:
        self.chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
        self.key = issued.private_key_pem.bytes()
        self.serial = x509.load_pem_x509_certificates(self.chain)[0].serial_number

    def encrypted(self, password: bytes) -> bytes:
        key = serialization.load_pem_private_key(self.key, None)
        return key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password),
        )

    def write(self, folder: Path) -> None:
        """As `chain.pem` and `key.pem`, in place."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "chain.pem").write_bytes(self.chain)
        key = folder / "key.pem"
        key.touch(mode=0o600)
        key.write_bytes(self.key)


def serial(connection: ssl.SSLObject | ssl.SSLSocket) -> int:
    """Which certificate the other side has shown."""
    shown = connection.getpeercert(binary_form=True)
    assert shown is not None
    return x509.load_der_x509_certificate(shown).serial_number
