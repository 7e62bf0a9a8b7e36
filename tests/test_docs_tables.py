"""The tables of the guide are those of the code, and what the documents refer to exists."""

from __future__ import annotations

import ast
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import AQ, DOCUMENTS, ENTRY, GUIDE, ROOT, blocks, commands, guide, prose, slug, table

import aquilia.sockets
import aquilia.sockets.compat
import aquilia.sockets.faults
import aquilia.testing
from aquilia.cli import main
from aquilia.sockets import Socket, SocketController
from aquilia.sockets.faults import SocketFault
from aquilia.sockets.metrics.families import FAMILIES
from aquilia.sockets.outbox.queue import Backpressure
from aquilia.sockets.settings import (
    NodeSettings,
    SettingsError,
    node_settings,
)


def value(cell: str) -> Any:
    return None if cell == "none" else ast.literal_eval(cell)


def known_manifest_settings() -> set[str]:
    with pytest.raises(SettingsError) as refused:
        node_settings({"?": None}, "here")
    listed = re.search(r"accepted: (.*)\)", refused.value.problem)
    assert listed
    return set(listed[1].split(", "))


def keys(rows: list[dict[str, str]], where: str) -> set[str]:
    return {
        key
        for row in rows
        if where in row["where"] or row["where"] == "both"
        for key in row["key"].split(", ")
    }


def test_the_settings_of_the_guide_are_those_of_the_code() -> None:
    rows = table("Settings", "key", "where", "default")

    assert keys(rows, "manifest") == known_manifest_settings()
    assert keys(rows, "@Socket") | {"guards", "middleware"} == set(inspect.signature(Socket).parameters) - {
        "path"
    }
    process = {row["key"] for row in rows if "process" in row["where"]}
    assert process == set(NodeSettings.__dataclass_fields__) - {"sockets", "chain"} | {"adapter_url"}


ELSEWHERE = ("backpressure", "adapter_url")  # a table of its own, and another word for the adapter


@pytest.mark.parametrize(
    "row",
    [row for row in table("Settings", "key", "where", "default") if row["key"] not in ELSEWHERE],
    ids=lambda row: row["key"],
)
def test_a_setting_has_the_default_of_the_guide(row: dict[str, str]) -> None:
    key, node = row["key"], NodeSettings()
    owners = [node, node.chain] if "manifest" in row["where"] else [node.sockets]
    settings = next(each for each in (*owners, node.sockets) if hasattr(each, key))

    assert (getattr(settings, key) or None) == (value(row["default"]) or None)


def test_the_backpressure_of_the_guide_is_that_of_the_code() -> None:
    documented = {row["key"]: value(row["default"]) for row in table("Backpressure", "key", "default")}

    assert Backpressure(**documented) == Backpressure()
    assert set(documented) == set(Backpressure.__dataclass_fields__)


def test_the_faults_of_the_guide_are_those_of_the_code() -> None:
    documented = [
        (row["code"].removesuffix(" *"), row["severity"], row["retryable"], row["HTTP"], row["close"])
        for row in table("Faults", "code", "severity")
    ]

    assert documented == [described(name) for name in fault_factories(documented)]


def fault_factories(documented: list[tuple[str, ...]]) -> list[str]:
    """The names of all factories, those of the guide in its order."""
    names = [name for name in aquilia.sockets.faults.__all__ if name.startswith("ws_")]
    order = [code.lower() for code, *_ in documented]
    return sorted(names, key=lambda name: order.index(name) if name in order else -1)


def described(factory: str) -> tuple[str, ...]:
    make = getattr(aquilia.sockets.faults, factory)
    parameters = inspect.signature(make).parameters.values()
    samples = {"str": "x", "int": 1, "float": 1.0}
    needed = {p.name: samples[p.annotation] for p in parameters if p.default is p.empty}
    made: list[SocketFault] = [make(**needed)]
    if any(parameter.name == "close" for parameter in parameters):
        made = [make(**needed, close=close) for close in (False, True)]
    fault = made[0]
    closes = ", ".join("–" if each.close_code is None else str(int(each.close_code)) for each in made)
    return fault.code, str(fault.severity), "yes" if fault.retryable else "no", str(fault.status), closes


def test_faults_that_are_said_to_be_unused_are_and_no_others() -> None:
    sources = [file.read_text() for file in (ROOT / "aquilia").rglob("*.py") if file.name != "faults.py"]
    rows = table("Faults", "code", "severity")

    for row in rows:
        code = row["code"].removesuffix(" *")
        raised = any(f"{code.lower()}(" in source for source in sources)
        assert raised is not row["code"].endswith(" *"), code


def test_the_metrics_of_the_guide_are_those_of_the_code() -> None:
    documented = [tuple(row.values()) for row in table("Metrics", "metric", "type", "labels")]

    told = [(each.name, each.type, ", ".join(each.labels), each.help) for each in FAMILIES.values()]
    assert documented == told


def test_the_queries_of_the_guide_name_metrics_that_there_are() -> None:
    queries = [block.text for page in GUIDE for block in blocks(page) if block.language == "promql"]

    named = set(re.findall(r"aquilia_\w+", "".join(queries)))
    assert len(named) > 3
    assert {name.removesuffix("_bucket") for name in named} <= set(FAMILIES)


def test_every_method_of_a_controller_and_a_connection_is_in_the_guide() -> None:
    text = guide()

    described = (SocketController, aquilia.sockets.Connection, aquilia.sockets.Handshake)
    functions = (aquilia.sockets.compat.Flow, aquilia.sockets.compat.FlowRequest)
    for owner in (*described, *functions, aquilia.testing.SocketsTest, aquilia.testing.Client):
        for name in vars(owner):
            assert name.startswith("_") or re.search(rf"\b{name}\b", text), f"{owner.__name__}.{name}"


# What the documents refer to exists


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(document)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = document.parent / path if path else document
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", prose(file), re.MULTILINE)
            assert anchor in map(slug, headings), target


@pytest.mark.parametrize("page", [page for page in GUIDE if page != ENTRY], ids=lambda page: page.name)
def test_the_entry_of_the_guide_lists_every_page(page: Path) -> None:
    listed = re.findall(r"^\| \[.+?\]\((\w+\.md)\) \|", ENTRY.read_text(), re.MULTILINE)

    assert listed.count(page.name) == 1


def test_the_pages_that_the_code_names_exist() -> None:
    sources = [ROOT / "pyproject.toml", *(ROOT / "aquilia").rglob("*.py"), *(ROOT / "modules").rglob("*.py")]
    named = {page for file in sources for page in re.findall(r"docs/\w+\.md", file.read_text())}

    assert "docs/WEBSOCKETS.md" in named
    assert not {page for page in named if not (ROOT / page).is_file()}


@pytest.mark.parametrize("words", [words for words in commands("aq") if "…" not in words])
def test_a_command_in_the_documents_exists(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["aq", *shlex.split(words), "--help"])
    with pytest.raises(SystemExit) as asked:
        main()

    assert asked.value.code == 0, capsys.readouterr()


def test_targets_of_make_in_the_documents_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)

    named = [
        word for words in commands("make") for word in shlex.split(words) if re.fullmatch("[a-z-]+", word)
    ]
    assert named
    assert not set(named) - set(targets)


def test_the_options_of_the_server_are_in_the_guide() -> None:
    wide = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}
    shown = subprocess.run(
        [AQ, "serve", "--help"], env=wide, capture_output=True, text=True, check=True
    ).stdout

    documented = {
        option
        for row in table("Commands", "option of `aq serve`")
        for option in row[next(iter(row))].split(", ")
    }
    assert documented == set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
