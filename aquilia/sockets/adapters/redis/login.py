"""What connections to Redis bring along: TLS context and logins, out of the URL and the files that it names."""

from __future__ import annotations

import ssl
from typing import NamedTuple

from aquilia.sockets.adapters.files import secret_of, tls_context
from aquilia.sockets.adapters.redis.url import Target

__all__ = ["Login", "login_of"]


class Login(NamedTuple):
    """A user that is None is the default one; a password that is None is not said."""

    user: str | None
    password: str | None
    sentinel_user: str | None
    sentinel_password: str | None
    context: ssl.SSLContext | None
    """None without TLS."""

    def __repr__(self) -> str:
        """Without what is secret."""
        return f"Login(tls={self.context is not None})"


def login_of(target: Target) -> Login:
    """The login of a target, as it is now. It reads files.

    Raises:
        ValueError: a file cannot be read, or is not what its option needs.
    """
    passwords = {
        option: secret_of(option, target.files[option])
        for option in ("password_file", "sentinel_password_file")
        if option in target.files
    }
    return Login(
        target.user,
        passwords.get("password_file", target.password),
        target.sentinel_user,
        passwords.get("sentinel_password_file"),
        tls_context(target.files) if target.tls else None,
    )
