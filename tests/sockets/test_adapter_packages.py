"""Adapters that packages bring by an entry point: how one is chosen, and what is told of one that is no good."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tomllib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from documents import ROOT, as_module, blocks, sections
from packages import install_package
from shared_hall import application, heard
from wire import Client, serving

from aquilia.aquilary import BootError
from aquilia.clock import Clock
from aquilia.sockets import (
    Publisher,
)
from aquilia.sockets.adapters import adapter_for

BROKERS = ROOT / "docs" / "BROKERS.md"
SHELF = (Path(__file__).parent / "shelf.py").read_text()

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a package for this test: see `install_package`."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    known = set(sys.modules)
    yield functools.partial(install_package, site)
    for module in set(sys.modules) - known:
        if str(site) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


@pytest.fixture
def shelf(install: Install, tmp_path: Path) -> str:
    """A package with an adapter of its own; gives the URL of one."""
    install("aquilia-shelf", {"shelf": "shelved:ShelfAdapter"}, "shelved", SHELF)
    return f"shelf://{tmp_path}/said"


def refusal(**settings: Any) -> str:
    """All that a program shows which does not catch it."""
    with pytest.raises(BootError) as refused:
        application(**settings)
    return "".join(traceback.format_exception(refused.value))


async def test_a_url_chooses_it(shelf: str) -> None:
    assert (
        await heard(application(adapter_url=shelf), application(adapter="shelf", adapter_url=shelf))
        == "hello"
    )


async def test_so_does_the_environment(shelf: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_WS_ADAPTER_URL", shelf)
    assert await heard(application(adapter="inmemory"), application()) == "hello"


async def test_programs_that_serve_nobody_reach_an_application_by_it(shelf: str) -> None:
    app = application(adapter_url=shelf)
    async with (
        serving(app) as base,
        Client.connect(f"{base}/hall", "v1.json") as client,
        Publisher(shelf) as publisher,
    ):
        await client.request("enter")
        report = await publisher.publish_room("/hall", "hall", "said", 1)
        assert report.connections == 1
        assert (await client.expect("said"))["payload"] == 1


def test_its_name_alone_is_its_scheme_alone(shelf: str) -> None:
    assert "shelf://: shelf://: a file is needed, as in shelf:///path/to/file" in refusal(adapter="shelf")


def test_its_options_are_those_of_the_application(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "from aquilia.sockets import InMemoryAdapter\nmade = []\n"
    text += "def make(url, options):\n    made.append((url, options))\n    return InMemoryAdapter()\n"
    install("aquilia-kept", {"kept": "keeping_options:make"}, "keeping_options", text)
    monkeypatch.setenv("AQ_WS_BUS_SECRET", "a secret of thirty-two bytes or so")
    clock = Clock()
    adapter_for("inmemory", "kept://x?y", clock, publish_timeout=3.0)
    adapter_for("inmemory", "kept://z", clock, where="--adapter-url", joining=True)
    import keeping_options  # type: ignore[import-not-found]

    (url, first), (_, second) = keeping_options.made
    assert (url, first.clock, first.publish_timeout, first.joining) == ("kept://x?y", clock, 3.0, False)
    assert first.signer is not None
    assert (second.publish_timeout, second.joining) == (None, True)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"adapter_url": "shelff://x"}, " or shelf://…; did you mean shelf://?"),
        ({"adapter_url": "other://x"}, "shelf://…; another one needs its package to be installed"),
        ({"adapter": "shelv"}, "did you mean 'shelf'? (accepted: inmemory, "),
        ({"adapter": "nats", "adapter_url": "shelf:///x"}, "it is that of 'shelf', and adapter says 'nats'"),
        ({"adapter": "shelf", "adapter_url": "nats://h"}, "it is that of 'nats', and adapter says 'shelf'"),
    ],
)
def test_where_ours_are_named_it_is_too(shelf: str, settings: dict[str, Any], told: str) -> None:
    assert told in refusal(**settings)


GOOD = "from aquilia.sockets import InMemoryAdapter\ndef make(url, options):\n    return InMemoryAdapter()\n"
BROKEN = {
    "no module": ("gone:make", "", "ModuleNotFoundError: No module named 'gone'"),
    "no name": ("broken:mak", GOOD, "has no attribute 'mak'"),
    "a module that fails": ("broken:make", "1 / 0\n", "it cannot be imported: ZeroDivisionError"),
    "nothing to call": (
        "broken:make",
        "make = 7\n",
        "it is 7, which cannot be called: it is called with the URL",
    ),
    "another signature": (
        "broken:make",
        "def make(url): ...\n",
        "takes 1 positional argument but 2 were given",
    ),
    "nothing": ("broken:make", "def make(url, options): ...\n", "is no Adapter: NoneType has no broker"),
    "a coroutine": (
        "broken:make",
        "async def make(url, options): ...\n",
        "is a coroutine; what has to be awaited",
    ),
    "no store": (
        "broken:make",
        "from types import SimpleNamespace\nfrom aquilia.sockets.adapters.inmemory import *\n"
        "def make(url, options):\n    return SimpleNamespace(broker=InMemoryBroker())\n",
        "is no Adapter: SimpleNamespace has no store",
    ),
    "half a store": (
        "broken:make",
        "from types import SimpleNamespace\nfrom aquilia.sockets.adapters.inmemory import *\n"
        "class Store:\n    get = put = compare_and_swap = 1\n"
        "def make(url, options):\n    return SimpleNamespace(broker=InMemoryBroker(), store=Store())\n",
        "is no Adapter: its store, Store, has no get_and_delete",
    ),
    "a URL that it refuses": (
        "broken:make",
        "def make(url, options):\n    raise ValueError(f'{url}: no ada with pa%20ss or pa ss')\n",
        "broken://: broken://…: no ada with *** or ***",
    ),
    "a refusal by mistake": (
        "broken:make",
        "def make(url, options):\n    raise KeyError(url)\n",
        "it failed: KeyError: 'broken://…'",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_one_that_is_no_good_is_told_at_boot(case: str, install: Install) -> None:
    named, text, told = BROKEN[case]
    install("aquilia-broken", {"broken": named}, "broken", text)
    message = refusal(adapter_url="broken://ada:pa%20ss@host/x?token=t0ken")
    assert "adapter_url: broken://" in message
    assert told in message
    if "refuses" not in case:
        assert f"broken://, {named} of aquilia-broken 1.0: " in message
    for secret in ("pa%20ss", "pa ss", "t0ken"):
        assert secret not in message


def test_nobody_takes_a_scheme_of_ours(install: Install) -> None:
    install("aquilia-taking", {"nats": "taking:make", "redis": "taking:make"}, "taking", GOOD)
    for scheme in ("nats", "redis"):
        assert f"{scheme}:// is Aquilia's own, and aquilia-taking 1.0 has it too: uninstall" in refusal(
            adapter_url=f"{scheme}://h"
        )
    application()  # who needs none of them is not concerned


def test_two_packages_with_one_scheme_are_told(install: Install) -> None:
    for name in ("one", "other"):
        install(f"aquilia-{name}", {"both": f"{name}:make"}, name, GOOD)
    assert "aquilia-one 1.0 and aquilia-other 1.0 both have both://: uninstall one" in refusal(adapter="both")


def test_workers_cannot_share_the_memory_of_one_process(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("aquilia-alone", {"alone": "apart:make"}, "apart", GOOD)
    application(adapter="alone")
    with pytest.raises(ValueError, match="Publisher: alone:// is in the process that serves"):
        Publisher("alone://")
    monkeypatch.setenv("AQ_WS_WORKERS", "2")
    assert "alone:// is the memory of one process, and each of the 2 workers" in refusal(adapter="alone")


def test_what_is_no_scheme_is_never_looked_for(install: Install) -> None:
    install("aquilia-odd", {"My_Bus": "odd:make"}, "odd", GOOD)
    assert "an URL is needed: memory://" in refusal(adapter_url="My_Bus://x")
    assert os.environ.get("AQ_WS_ADAPTER_URL") is None


# The guide's


def test_the_adapter_of_the_guide_is_found_and_keeps_its_promises(tmp_path: Path, install: Install) -> None:
    (named,) = [block for block in blocks(BROKERS) if block.language == "toml"]
    (points,) = tomllib.loads(named.text)["project"]["entry-points"].values()
    python = sections(BROKERS)["an-adapter-of-your-own"]
    install("mybus-aquilia", points, "mybus_aquilia", as_module(python[:1]))
    application(adapter="mybus")
    (tmp_path / "test_mybus.py").write_text(as_module(python))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_default_fixture_loop_scope=function"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.fullmatch(r"\d\d passed in .*", ran.stdout.splitlines()[-1]), ran.stdout + ran.stderr
