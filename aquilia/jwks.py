"""Keys that somebody else publishes, and changes: a JWKS (RFC 7517) by its URL, or in a file.

A key that is in the set no more is accepted no more. While the set cannot be had anew, the former one is used: that
of a URL for `max_age` seconds, that of a file until there is another.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from math import inf, isfinite
from pathlib import Path
from typing import Protocol

from aquilia.clock import Clock
from aquilia.faults import Fault, FaultDomain, Severity
from aquilia.jwks_fetch import MAX_BYTES, Fetch, FetchError, url_problem
from aquilia.jwt_keys import TrustedKeys

__all__ = ["JWKS", "KEYS_UNAVAILABLE", "KeySource"]

logger = logging.getLogger("aquilia.auth")

KEYS_UNAVAILABLE = "AUTH_KEYS_UNAVAILABLE"
COOLDOWN = 5.0
"""Seconds between two fetches, whatever keys tokens name; after failures it doubles each time,"""
LONGEST_PAUSE = 60.0
"""up to this."""
LOOK_EVERY = 1.0
"""Seconds between two looks at a file."""

Read = Callable[[bytes], TrustedKeys]


class JWKS:
    """Where a JWKS is: `JWTAuthManager(jwks=JWKS("https://issuer.example/.well-known/jwks.json", refresh=60))`.

    `source` is a URL, https or on loopback http, or the path of a file. A URL is fetched when the app starts, again
    when what was fetched is older than `refresh` seconds, and at once when a token names a key that is not known, at
    most every five seconds. A fetch may take `timeout` seconds. What was fetched is used for `max_age` seconds at
    most. A file is read again when it has changed.

    Raises:
        ValueError: for a URL that is not safe, and for times that are none.
        TypeError: for what is neither a URL nor a path.
    """

    def __init__(
        self,
        source: str | os.PathLike[str],
        *,
        refresh: float = 300.0,
        max_age: float = 3600.0,
        timeout: float = 5.0,
    ) -> None:
        if not isinstance(source, str | os.PathLike):
            raise TypeError(f"JWKS: a URL or a path is needed, not {type(source).__qualname__}")
        for name, value, least in (
            ("refresh", refresh, COOLDOWN),
            ("max_age", max_age, 0.0),
            ("timeout", timeout, 0.0),
        ):
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not isfinite(value)
                or value <= 0
                or value < least
            ):
                wanted = f"{least:g} or more seconds are" if least else "a number of seconds above 0 is"
                raise ValueError(f"JWKS: {name}: {wanted} needed, not {value!r}")
        if max_age < refresh:
            raise ValueError(
                f"JWKS: max_age: {max_age!r} is less than refresh, {refresh!r}: keys would run out"
            )
        self.source = os.fspath(source)
        self.remote = isinstance(source, str) and "://" in source
        """Whether it is a URL."""
        if not self.source:
            raise ValueError("JWKS: the source is empty")
        if self.remote and (problem := url_problem(self.source)):
            raise ValueError(f"JWKS: {problem}")
        self.refresh, self.max_age, self.timeout = float(refresh), float(max_age), float(timeout)

    def __repr__(self) -> str:
        return f"JWKS({self.source!r})"

    def keys(self, read: Read) -> KeySource:
        """What has the keys of it at any time, as `read` makes them of a JWKS."""
        return _Remote(self, read) if self.remote else _File(self, read)


class KeySource(Protocol):
    """Has keys that may change."""

    @property
    def trusted(self) -> TrustedKeys | None:
        """The newest, if there ever were any."""

    async def load(self) -> None:
        """Have keys.

        Raises:
            Fault: AUTH_KEYS_UNAVAILABLE, with the reason.
        """

    async def keys_for(self, kid: str | None) -> TrustedKeys:
        """The keys to check a token by that names this one.

        Raises:
            Fault: AUTH_KEYS_UNAVAILABLE: there are none, or they are too old.
        """


def _unavailable(message: str = "the keys of tokens cannot be had now") -> Fault:
    return Fault(
        KEYS_UNAVAILABLE,
        message,
        domain=FaultDomain.SECURITY,
        severity=Severity.FATAL,
        retryable=True,
        status=503,
    )


class _Remote:
    """Keys by URL."""

    def __init__(self, jwks: JWKS, read: Read) -> None:
        self.trusted: TrustedKeys | None = None
        self._jwks = jwks
        self._read = read
        self._fetched_at = self._next_try = -inf
        self._failures = 0
        self._problem = ""
        self._flight: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """See `KeySource`."""
        if self._age() >= self._jwks.refresh:
            await self._renewed()
        if self._age() > self._jwks.max_age:
            raise _unavailable(f"no keys from {self._jwks.source}: {self._problem}")

    async def keys_for(self, kid: str | None) -> TrustedKeys:
        """See `KeySource`. Waits only where no key fits."""
        age = self._age()
        if age > self._jwks.max_age:
            await self._renewed()
        elif age >= self._jwks.refresh:
            self._start()
        if self.trusted is not None and not self.trusted.knows(kid):
            await self._renewed()
        if self.trusted is None or self._age() > self._jwks.max_age:
            raise _unavailable()
        return self.trusted

    def _age(self) -> float:
        return Clock.current().monotonic() - self._fetched_at

    async def _renewed(self) -> None:
        """Wait for the fetch that is under way, if there may be one now: one for all who wait."""
        flight = self._start()
        if flight is not None:
            await asyncio.shield(flight)

    def _start(self) -> asyncio.Task[None] | None:
        loop = asyncio.get_running_loop()
        flight = self._flight
        if flight is not None and not flight.done() and flight.get_loop() is loop:
            return flight
        if Clock.current().monotonic() < self._next_try:
            return None
        # Not by the loop's factory: an eager one could end it before it is noted as under way.
        self._flight = asyncio.Task(self._fetch(), loop=loop)
        return self._flight

    async def _fetch(self) -> None:
        fetch = Fetch(self._jwks.source, self._jwks.timeout)
        try:
            async with asyncio.timeout(self._jwks.timeout):
                data = await asyncio.get_running_loop().run_in_executor(None, fetch.run)
            trusted = self._read(data)
        except TimeoutError:
            self._failed(f"no answer within {self._jwks.timeout:g} s")
        except (FetchError, ValueError) as error:
            self._failed(str(error))
        else:
            self._succeeded(trusted)
        finally:
            fetch.abort()

    def _succeeded(self, trusted: TrustedKeys) -> None:
        if self._failures and self.trusted is not None:
            logger.info("the keys of %s can be had again", self._jwks.source)
        self.trusted, self._failures = trusted, 0
        self._fetched_at = Clock.current().monotonic()
        self._next_try = self._fetched_at + COOLDOWN

    def _failed(self, problem: str) -> None:
        self._problem = problem
        if not self._failures and self.trusted is not None:
            left = max(0.0, self._jwks.max_age - self._age())
            logger.warning(
                "no new keys from %s, the former ones are used for %d s more: %s",
                self._jwks.source,
                left,
                problem,
            )
        pause = min(LONGEST_PAUSE, COOLDOWN * 2.0 ** min(self._failures, 10))
        self._failures += 1
        self._next_try = Clock.current().monotonic() + pause


class _File:
    """Keys in a file."""

    def __init__(self, jwks: JWKS, read: Read) -> None:
        self.trusted: TrustedKeys | None = None
        self._path = Path(jwks.source)
        self._read = read
        self._seen: tuple[int, ...] | None = None
        self._next_look = -inf
        self._problem: str | None = None

    async def load(self) -> None:
        """See `KeySource`."""
        self._look()
        if self.trusted is None:
            raise _unavailable(f"no keys in {self._path}: {self._problem}")

    async def keys_for(self, kid: str | None) -> TrustedKeys:
        """See `KeySource`."""
        if Clock.current().monotonic() >= self._next_look:
            self._look()
        if self.trusted is None:
            raise _unavailable()
        return self.trusted

    def _look(self) -> None:
        self._next_look = Clock.current().monotonic() + LOOK_EVERY
        try:
            found = self._path.stat()
            seen = (found.st_mtime_ns, found.st_size, found.st_ino, found.st_dev)
            if seen == self._seen:
                self._problem = None
                return
            if found.st_size > MAX_BYTES:
                raise ValueError(f"it has more than {MAX_BYTES} bytes")
            with self._path.open("rb") as file:
                trusted = self._read(file.read(MAX_BYTES + 1))
        except OSError as error:
            self._failed(error.strerror or type(error).__name__)
        except ValueError as error:
            self._failed(str(error))
        else:
            self.trusted, self._seen, self._problem = trusted, seen, None

    def _failed(self, problem: str) -> None:
        if problem != self._problem and self.trusted is not None:
            logger.warning("the keys in %s stay as they were: %s", self._path, problem)
        self._problem = problem
