"""The addresses of clients: which count as one, and how often each may knock. Pure: the time is passed in."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address

__all__ = ["MAX_ADDRESSES", "AddressRates", "address_key"]

MAX_ADDRESSES = 100_000
"""Addresses that are remembered at a time: some 15 MB."""
_SITE = 64
"""Bits of an IPv6 address that name a site; the rest its owner may choose anew for each connection (RFC 4291)."""
_SLACK = 1e-9


def address_key(host: str) -> str:
    """What a client is counted by: an IPv4 address by itself, one of IPv6 by its /64, any other name as it is."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is None:
            return str(IPv6Network((int(address), _SITE), strict=False))
        address = address.ipv4_mapped
    return str(address)


class AddressRates:
    """A token bucket for each address: `rate` tokens a second, up to `burst` saved. Each starts full.

    A bucket that is full again is forgotten. If there are `limit` that are not, the one that was asked longest ago
    is forgotten all the same, and so full again: who has more addresses than that is not held by any of them.
    """

    def __init__(self, rate: float, burst: float, *, limit: int = MAX_ADDRESSES) -> None:
        if rate <= 0 or burst < 1:
            raise ValueError(f"a rate above 0 and a burst of at least 1 are needed, not {rate} and {burst}")
        self._interval = 1 / rate
        self._saved = (burst - 1) / rate
        self._limit = limit
        # When each bucket will be full, by the last time that it was asked: half the memory of a `TokenBucket`.
        self._full_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, key: str, now: float) -> float:
        """Take a token. Seconds until there is one; 0.0: it was taken."""
        full_at = self._full_at.pop(key, now)
        wait = full_at - now - self._saved
        taken = wait <= _SLACK
        self._full_at[key] = max(full_at, now) + self._interval if taken else full_at
        self._forget(now)
        return 0.0 if taken else wait

    def wait(self, key: str, now: float) -> float:
        """Seconds until there is a token; 0.0: there is one. None is taken."""
        wait = self._full_at.get(key, now) - now - self._saved
        return wait if wait > _SLACK else 0.0

    def _forget(self, now: float) -> None:
        for _ in range(2):  # more than come, so that they become fewer
            oldest = next(iter(self._full_at))
            if self._full_at[oldest] > now and len(self._full_at) <= self._limit:
                break
            del self._full_at[oldest]
            if not self._full_at:
                break
