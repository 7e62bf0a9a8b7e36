"""Keys, tokens, and an AuthManager with users of its own: what tests of authentication share."""

from __future__ import annotations

import base64
import json
from typing import Any

from aquilia import Identity, JWTAuthManager
from aquilia.auth import token_expired, token_invalid

SECRET = "a secret of more than thirty-two bytes"
JWT = JWTAuthManager(SECRET, leeway=0)


def token(id: str = "ann", *, lifetime: float = 60, **claims: Any) -> str:
    """A good token."""
    return JWT.issue(Identity(id, **claims), lifetime=lifetime)


def part(value: Any) -> str:
    """One of the parts between the dots of a JWT."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class Passwords:
    """An AuthManager of an application's own: a token is a user's name. It can take users back."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.checked: list[str] = []
        self.revoked: set[str] = set()
        self.expires_at: dict[str, float] = {}

    async def authenticate(self, token: str) -> Identity:
        self.asked.append(token)
        name, _, word = token.partition("/")
        if name == "broken":
            raise ZeroDivisionError("a secret")
        if word == "old":
            raise token_expired()
        if word or name in self.revoked:
            raise token_invalid("nobody is called that")
        roles = ["admin"] if name == "root" else []
        return Identity(name, roles=roles, scopes=["chat:read"], expires_at=self.expires_at.get(name))

    async def still_valid(self, identity: Identity) -> bool:
        self.checked.append(identity.id)
        return identity.id not in self.revoked
