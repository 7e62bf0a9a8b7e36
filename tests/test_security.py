"""The checklist of docs/SECURITY.md names settings and tests that there are, and pickle is read nowhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from documents import ROOT, table

import aquilia
import aquilia.sockets

ROWS = table("Checklist", "concern", "what is done", "setting", "tests")
UNSAFE = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "jsonpickle"}


def names(cell: str) -> list[str]:
    return [] if cell == "–" else cell.split(", ")


def settings() -> set[str]:
    listed = table("Settings", "key", "where", "default")
    options = table("Commands", "option of `aq serve`")
    return {name for row in listed for name in names(row["key"])} | {
        name for row in options for name in names(next(iter(row.values())))
    }


def functions(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["concern"])
def test_what_protects_is_a_setting_and_is_tested(row: dict[str, str]) -> None:
    known = settings() | set(aquilia.__all__) | set(aquilia.sockets.__all__)

    assert set(names(row["setting"])) <= known
    assert names(row["tests"])
    for test in names(row["tests"]):
        file, _, name = test.partition("::")
        assert (ROOT / "tests" / file).is_file(), test
        assert not name or name in functions(ROOT / "tests" / file), test


def test_nothing_is_read_that_could_run_code() -> None:
    for file in (ROOT / "aquilia").rglob("*.py"):
        imported = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert not imported & UNSAFE, file
