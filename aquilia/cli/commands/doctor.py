"""`aq doctor`: what is unsafe in the way that the workspace is configured."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.padding import Padding
from rich.text import Text

from aquilia.cli.checks import CHECKS, Finding, findings
from aquilia.cli.commands.compile import AppOption
from aquilia.cli.console import count, note_printed, print_json, relative, show_problems, stdout
from aquilia.cli.proxies import ProxiesOption, named_proxies

__all__ = ["doctor_command"]

_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def doctor_command(
    app: AppOption = None,
    json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option("--accept", metavar="CHECK", help="Leave out this check: what it finds is meant so."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="The --host that you serve with.")
    ] = "127.0.0.1",
    uds: Annotated[bool, typer.Option("--uds", help="You serve on a Unix socket.")] = False,
    tls: Annotated[bool, typer.Option("--tls", help="You serve with --ssl-certfile.")] = False,
    trusted_proxies: ProxiesOption = None,
) -> None:
    """Name what is unsafe in the workspace in this folder, and what to do about it.

    The exit code is 1 if it does not boot, or if there is an error and AQ_ENV is production, as it is by default.
    """
    from aquilia.cli.examination import examine

    for name in accept or ():
        if name not in CHECKS:
            near = get_close_matches(name, list(CHECKS), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise typer.BadParameter(
                f"there is no check {name!r}{hint} (accepted: {', '.join(CHECKS)})", param_hint="--accept"
            )
    named = named_proxies(trusted_proxies)
    root = Path.cwd()
    found = examine(root, app)
    if not json:
        note_printed(found.printed, root)
    if found.posture is None:
        show_problems(found.problems, root)
        raise typer.Exit(1)
    posture = msgspec.structs.replace(
        found.posture,
        address="unix" if uds else host,
        certificate=tls,
        trusted_proxies=found.posture.trusted_proxies if named is None else named,
    )
    listed = [
        msgspec.structs.replace(finding, where=relative(finding.where, root))
        for finding in findings(posture, frozenset(accept or ()))
    ]
    if json:
        content = {"environment": posture.environment, "findings": listed}
        print_json(msgspec.json.format(msgspec.json.encode(content)).decode())
    else:
        _show(listed)
    if posture.environment == "production" and any(finding.level == "error" for finding in listed):
        raise typer.Exit(1)


def _show(listed: list[Finding]) -> None:
    for finding in listed:
        heading = Text.assemble(
            (finding.level, _STYLES[finding.level]), f"  {finding.check}  ", (finding.where, "cyan")
        )
        stdout.print(heading, soft_wrap=True)
        for text in (Text(finding.problem), Text(finding.remedy, "dim")):
            if stdout.is_terminal:
                stdout.print(Padding(text, (0, 0, 0, 2)))
            else:
                stdout.print(Text("  ").append(text), soft_wrap=True)
        stdout.print()
    told = [
        count(number, level)
        for level in _STYLES
        if (number := sum(finding.level == level for finding in listed))
    ]
    stdout.print(", ".join(told) or "nothing unsafe was found")
