"""What one connection to Kafka brings along: its TLS context and its login, out of the files that the URL names."""

from __future__ import annotations

from typing import Any

from aquilia.sockets.adapters.files import secret_of, tls_context
from aquilia.sockets.adapters.kafka.url import Target

__all__ = ["connect_options"]


def connect_options(target: Target) -> dict[str, Any]:
    """The words for `create_conn` of aiokafka. It reads files.

    Raises:
        ValueError: a file cannot be read, or is not what its option needs.
    """
    options: dict[str, Any] = {
        "security_protocol": ("SASL_" if target.user else "") + ("SSL" if target.tls else "")
    }
    if not target.tls:
        options["security_protocol"] += "PLAINTEXT"
    else:
        options["ssl_context"] = tls_context(target.files)
    if target.user:
        file = target.files.get("password_file")
        options["sasl_mechanism"] = target.mechanism
        options["sasl_plain_username"] = target.user
        options["sasl_plain_password"] = target.password if file is None else secret_of("password_file", file)
    return options
