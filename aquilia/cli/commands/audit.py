"""`aq ws audit …`: the audit files, and whether they are as they were written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from aquilia.cli.commands.audit_show import show_command
from aquilia.cli.console import count, fail, stdout
from aquilia.sockets.audit.chain import Verdict, Verifier
from aquilia.sockets.audit.file import AuditFileError
from aquilia.sockets.audit.trail import AUDIT_SECRET, audit_secret

__all__ = ["app"]

app = typer.Typer(name="audit", help="Look at what the setting audit has written.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


app.command("show")(show_command)


@app.command("verify")
def verify_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="Audit files, each by itself.")],
    head: Annotated[
        str | None,
        typer.Option(metavar="HASH", help="A hash that was kept elsewhere: is it still in one of the files?"),
    ] = None,
) -> None:
    """Check that no line of an audit file was changed, removed, added or moved. AQ_AUDIT_SECRET is the writer's.

    The exit code is 0 if all is as it was written, 1 if not.
    """
    if head is not None and (len(head) != 64 or not set(head) <= set("0123456789abcdef")):
        raise typer.BadParameter("64 hexadecimal digits are needed, as a line has them", param_hint="--head")
    try:
        secret = audit_secret()
    except AuditFileError as error:
        fail(str(error))
    verdicts = [_verified(file, secret, head) for file in files]
    for file, verdict in zip(files, verdicts, strict=True):
        _show(file, verdict, keyed=secret is not None)
    found = any(verdict.behind_head is not None for verdict in verdicts)
    if head is not None:
        _show_head(found)
    elif all(verdict.problem is None for verdict in verdicts):
        stdout.print("Lines cut off at the end leave no trace: compare with a hash kept elsewhere (--head).")
    if secret is None and all(verdict.problem is None for verdict in verdicts):
        stdout.print(
            f"Without {AUDIT_SECRET}, who can write a file can make a new chain that verifies as well."
        )
    if any(verdict.problem is not None for verdict in verdicts) or (head is not None and not found):
        raise typer.Exit(1)


def _verified(file: Path, secret: bytes | None, head: str | None) -> Verdict:
    try:
        with file.open("rb") as lines:
            return Verifier(secret, head=head).read(lines)
    except OSError as error:
        fail(f"{file} cannot be read: {error.strerror}")


def _show(file: Path, verdict: Verdict, *, keyed: bool) -> None:
    if verdict.problem is not None:
        wrong = Text.assemble((f"{file}:{verdict.line}: ", "bold red"), verdict.problem)
        stdout.print(wrong, soft_wrap=True)
        if verdict.lines:
            stdout.print(f"  before that: {count(verdict.lines, 'line')} as written", soft_wrap=True)
        return
    how = "HMAC-SHA-256" if keyed else "SHA-256"
    stdout.print(
        Text.assemble((str(file), "bold green"), f"  {count(verdict.lines, 'line')}, {how}"), soft_wrap=True
    )
    stdout.print(f"  last hash  {verdict.head}", soft_wrap=True)
    for told in _remarks(verdict):
        stdout.print(f"  {told}", soft_wrap=True)


def _remarks(verdict: Verdict) -> list[str]:
    told = []
    if verdict.closed < verdict.begun:
        left = verdict.begun - verdict.closed
        told.append(f"{left} of {count(verdict.begun, 'run')} did not close it: it runs, or was killed")
    if verdict.sealed:
        told.append(f"{count(verdict.sealed, 'torn line')} of a process that was killed, sealed by the next")
    if verdict.torn:
        told.append("it ends in the middle of a line: it is written now, or its process was killed")
    if verdict.lost:
        told.append(f"{count(verdict.lost, 'record')} could not be written at the time")
    if verdict.behind_head is not None:
        told.append(f"the hash of --head is there, and {count(verdict.behind_head, 'line')} behind it")
    return told


def _show_head(found: bool) -> None:
    if not found:
        wrong = "no line has the hash of --head: lines are missing at the end, or this is another file"
        stdout.print(Text(wrong, "bold red"), soft_wrap=True)
