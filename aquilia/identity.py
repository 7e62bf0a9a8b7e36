"""Who a client is: an `Identity`, and how one is kept elsewhere for a while, as in a session."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite, isnan
from types import MappingProxyType
from typing import Any

import msgspec

__all__ = ["Identity", "ending", "expiry", "packed", "unpacked"]

_NEVER = 2.0**53 / 1000
"""A moment that its milliseconds cannot be told of: JavaScript has no whole numbers from there on."""


@dataclass(frozen=True, slots=True, init=False)
class Identity:
    """Who a client is. Immutable.

    `id` names it within the application, `type` says what it is ("user", "service", …). `attributes` is what else is
    known of it. At `expires_at`, in seconds since 1970, its connections are closed; None is never. `token_id` and
    `issued_at` are of the token that it came by, where that has them (RFC 7519: `jti`, `iat`): by these its access
    can be taken back. Identities are equal without regard to those two.

    Raises:
        ValueError: for values of the wrong kind.
    """

    id: str
    type: str
    roles: frozenset[str]
    scopes: frozenset[str]
    attributes: Mapping[str, Any] = field(hash=False)
    expires_at: float | None
    token_id: str | None = field(compare=False)
    issued_at: float | None = field(compare=False)

    def __init__(
        self,
        id: str,
        *,
        type: str = "user",
        roles: Collection[str] = (),
        scopes: Collection[str] = (),
        attributes: Mapping[str, Any] = MappingProxyType({}),
        expires_at: float | None = None,
        token_id: str | None = None,
        issued_at: float | None = None,
    ) -> None:
        for name, value in (
            ("id", id),
            ("type", type),
            *([] if token_id is None else [("token_id", token_id)]),
        ):
            if not isinstance(value, str) or not value:
                raise ValueError(f"Identity: {name}: a string is needed, not {value!r}")
        if not isinstance(attributes, Mapping) or not all(isinstance(key, str) for key in attributes):
            raise ValueError("Identity: attributes: a mapping with strings as keys is needed")
        fields: dict[str, Any] = {
            "id": id,
            "type": type,
            "roles": _names("roles", roles),
            "scopes": _names("scopes", scopes),
            "attributes": MappingProxyType(dict(attributes)),
            "expires_at": _moment("expires_at", expires_at),
            "token_id": token_id,
            "issued_at": _moment("issued_at", issued_at),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def has_role(self, *roles: str) -> bool:
        """Whether it has one of these roles."""
        return not self.roles.isdisjoint(roles)

    def has_scope(self, *scopes: str) -> bool:
        """Whether it has all of these scopes."""
        return self.scopes.issuperset(scopes)


def _names(what: str, values: object) -> frozenset[str]:
    wanted = f"Identity: {what}: a list of strings without spaces is needed, not {values!r}"
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Collection):
        raise ValueError(wanted)
    if not all(isinstance(value, str) and value and not set(value) & set(" \t\r\n") for value in values):
        raise ValueError(wanted)
    return frozenset(values)


def _moment(what: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise ValueError(f"Identity: {what}: seconds since 1970 are needed, or None, not {value!r}")
    return float(value)


def expiry(identity: Any) -> float | None:
    """When an identity expires, in seconds since 1970; None: never. One of an application's own need not say.

    Raises:
        TypeError: for what is no moment: nobody would know when it is over.
    """
    moment = getattr(identity, "expires_at", None)
    if moment is None:
        return None
    if not isinstance(moment, int | float) or isnan(moment):
        raise TypeError(
            f"{type(identity).__qualname__}.expires_at: seconds since 1970 are needed, or None, not {moment!r}"
        )
    return moment if moment < _NEVER else None


def ending(identity: Identity, moment: float) -> Identity:
    """The same identity, which expires at this moment at the latest."""
    if identity.expires_at is not None and identity.expires_at <= moment:
        return identity
    return Identity(
        identity.id,
        type=identity.type,
        roles=identity.roles,
        scopes=identity.scopes,
        attributes=identity.attributes,
        expires_at=moment,
        token_id=identity.token_id,
        issued_at=identity.issued_at,
    )


class _Packed(msgspec.Struct, array_like=True):
    version: int
    id: str
    type: str
    roles: list[str]
    scopes: list[str]
    attributes: dict[str, Any]
    expires_at: float | None
    token_id: str | None
    issued_at: float | None


_VERSION = 1


def packed(identity: Any, *, issued_at: float | None = None) -> bytes:
    """An identity as bytes, from which `unpacked` makes one that is equal; `issued_at`, if it does not say when.

    Raises:
        TypeError: for what is no `aquilia.Identity`, or has attributes that would come back as something else.
    """
    if type(identity) is not Identity:
        kind = type(identity).__qualname__
        raise TypeError(f"only an aquilia.Identity can be kept, and this is a {kind}")
    for name, value in identity.attributes.items():
        if not _comes_back(value):
            raise TypeError(
                f"Identity: attributes[{name!r}] cannot be kept: {type(value).__name__} is, or holds, what is no "
                "None, bool, int up to 64 bits, float, str, bytes, time with a zone, list or dict"
            )
    attributes = dict(identity.attributes)
    return msgspec.msgpack.encode(
        _Packed(
            _VERSION,
            identity.id,
            identity.type,
            sorted(identity.roles),
            sorted(identity.scopes),
            attributes,
            identity.expires_at,
            identity.token_id,
            identity.issued_at if identity.issued_at is not None else issued_at,
        )
    )


def unpacked(data: bytes) -> Identity:
    """The identity that was packed.

    Raises:
        ValueError: for what `packed` did not write, or a later version of it.
    """
    found = msgspec.msgpack.decode(data, type=_Packed)
    if found.version != _VERSION:
        raise ValueError(f"an identity of version {found.version}; this is Aquilia's version {_VERSION}")
    return Identity(
        found.id,
        type=found.type,
        roles=found.roles,
        scopes=found.scopes,
        attributes=found.attributes,
        expires_at=found.expires_at,
        token_id=found.token_id,
        issued_at=found.issued_at,
    )


def _comes_back(value: Any) -> bool:
    try:
        return _same(value, msgspec.msgpack.decode(msgspec.msgpack.encode(value)))
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False


def _same(value: Any, kept: Any) -> bool:
    """`==` alone takes True for 1, and an enum for its value."""
    if type(value) is not type(kept):
        return False
    if isinstance(value, dict):
        names = all(type(name) is str for name in value)
        return names and value.keys() == kept.keys() and all(_same(value[name], kept[name]) for name in value)
    if isinstance(value, list):
        return len(value) == len(kept) and all(map(_same, value, kept))
    return bool(value == kept)
