"""Tests that run on asyncio's own event loop and on uvloop."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def on_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, once on each; its fixtures are plain ones."""

    @functools.wraps(test)
    def run(loop: str, **given: Any) -> None:
        with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
            runner.run(test(**given))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(parameters=[*signature.parameters.values(), loop])  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop", LOOPS)(run)


def all_on_uvloop(suite: type) -> Callable[[type], type]:
    """Gives a class the tests of a suite, each on uvloop; their fixtures are plain ones, which the class has."""

    def given_to(holder: type) -> type:
        for name in dir(suite):
            test = getattr(suite, name)
            if name.startswith("test_") and inspect.iscoroutinefunction(test):
                setattr(holder, name, _on_uvloop(test))
        return holder

    return given_to


def _on_uvloop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(self: object, **given: Any) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(test(self, **given))

    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    del run.__wrapped__  # type: ignore[attr-defined]
    return run
