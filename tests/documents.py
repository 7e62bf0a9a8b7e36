"""The documents of this repository, in parts: their fenced blocks and their tables."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENTRY = ROOT / "docs" / "WEBSOCKETS.md"
BESIDE = {"BENCHMARKS.md", "DEPENDENCIES.md", "ROADMAP.md"}  # what they name, they do not explain
GUIDE = [page for page in sorted(ROOT.glob("docs/**/*.md")) if page.name not in BESIDE]
DOCUMENTS = [*ROOT.glob("*.md"), *sorted(ROOT.glob("docs/**/*.md"))]
AQ = Path(sys.executable).with_name("aq")


@dataclass(frozen=True)
class Block:
    """A fenced block."""

    document: Path
    section: str
    line: int
    """Of its first line of text, counted from 1."""
    language: str
    words: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.document.name}:{self.line}"

    @property
    def options(self) -> dict[str, str]:
        return dict(word.partition("=")[::2] for word in self.words)


@cache
def blocks(document: Path) -> list[Block]:
    found, section, fence = [], "", None
    for number, line in enumerate(document.read_text().splitlines(), 1):
        if fence is None and line.startswith("```"):
            fence = Block(document, section, number + 1, *_info(line), "")
            lines: list[str] = []
        elif fence is not None and line == "```":
            found.append(Block(**{**vars(fence), "text": "".join(f"{text}\n" for text in lines)}))
            fence = None
        elif fence is not None:
            lines.append(line)
        elif re.match("##? ", line):
            section = slug(line.lstrip("# "))
    assert fence is None, f"{document.name}: a fence is not closed"
    return found


def _info(fence: str) -> tuple[str, tuple[str, ...]]:
    language, *words = fence.removeprefix("```").split() or [""]
    return language, tuple(words)


def guide() -> str:
    """The text of all pages of the guide; each begins with its heading as that of a section."""
    return "\n".join(f"#{page.read_text()}" for page in GUIDE)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def sections(document: Path) -> dict[str, list[Block]]:
    """The Python of a document that is no file of a workspace, by section."""
    found: dict[str, list[Block]] = {}
    for block in blocks(document):
        if block.language == "python" and "file" not in block.options:
            found.setdefault(block.section, []).append(block)
    return found


def typed_sections(document: Path) -> dict[str, list[Block]]:
    """The Python of a document for a type checker, by section; not a manifest's, which imports its neighbours."""
    found: dict[str, list[Block]] = {}
    for block in blocks(document):
        file = block.options.get("file", "")
        if block.language == "python" and "untyped" not in block.words and not file.endswith("manifest.py"):
            found.setdefault(block.section, []).append(block)
    return found


def as_module(blocks: list[Block]) -> str:
    """Blocks as one module, each on the lines that it has in the document."""
    lines = ["from aquilia.sockets import *"]
    for block in blocks:
        lines += [""] * (block.line - 1 - len(lines))
        lines += block.text.splitlines()
    return "\n".join(lines) + "\n"


def table(section: str, *columns: str) -> list[dict[str, str]]:
    """The rows of a section's table with these first columns, on whatever page; code is without its backticks."""
    bodies = re.findall(rf"^## {section}\n(.*?)(?=^## |\Z)", guide(), re.MULTILINE | re.DOTALL)
    tables = [_cells(found) for body in bodies for found in re.findall(r"(?:^\|.*\|\n)+", body, re.MULTILINE)]
    fitting = [found for found in tables if found[0][: len(columns)] == list(columns)]
    assert len(fitting) == 1, f"{len(fitting)} tables under {section!r} have the columns {columns}"
    header, _, *rows = fitting[0]
    return [dict(zip(header, (cell.replace("`", "") for cell in row), strict=True)) for row in rows]


def _cells(rows: str) -> list[list[str]]:
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows.splitlines()]


def prose(document: Path) -> str:
    """A document without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(program: str) -> list[str]:
    """What the documents tell to run, in blocks for a shell and in `code`."""
    found: dict[str, None] = {}
    for document in DOCUMENTS:
        if document.name == "ROADMAP.md":
            continue  # it names what is still to come
        text = document.read_text()
        inline = re.findall(rf"(?<!`)`({program} [^`\n]+)`(?!`)", text)
        shell = [
            line for block in blocks(document) if block.language == "sh" for line in block.text.splitlines()
        ]
        for line in [*inline, *shell]:
            words = shlex.split(line, comments=True)
            if words[:1] == [program]:
                found[shlex.join(words[1:])] = None
    return list(found)
