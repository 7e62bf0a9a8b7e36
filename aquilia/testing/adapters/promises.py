"""What adapters promise, in words for who chooses one: each promise has its tests, and each of these says which."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

__all__ = ["keeps", "promises_of"]

_Test = TypeVar("_Test", bound=Callable[..., Any])
_ATTRIBUTE = "promise"


def keeps(promise: str) -> Callable[[_Test], _Test]:
    """Say which promise a test is one of."""

    def said(test: _Test) -> _Test:
        setattr(test, _ATTRIBUTE, promise)
        return test

    return said


def promises_of(suites: Iterable[type], classes: Iterable[type]) -> dict[str, bool]:
    """Each promise of these suites, in their order, and whether the classes of an adapter have every test of it.

    print(promises_of(SUITES, [TestMyBus, TestMyBusOnTwoNodes]))
    """
    having = list(classes)
    found: dict[str, bool] = {}
    for suite in suites:
        for name, test in vars(suite).items():
            promise = getattr(test, _ATTRIBUTE, None)
            if isinstance(promise, str):
                kept = any(issubclass(each, suite) and getattr(each, name) is not None for each in having)
                found[promise] = found.get(promise, True) and kept
    return found
