"""Booting a workspace in a process of its own, so that what it does when imported stays there.

The child writes one JSON document to a pipe that the workspace's code knows nothing of. If that code ends the
process, prints, or breaks it, the parent can still say what happened.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from aquilia.aquilary import BootError, Problem
from aquilia.manifest import ManifestError
from aquilia.sockets.artifact import Artifact

__all__ = ["Compilation", "compile_isolated"]


class Compilation(msgspec.Struct):
    """What came of it: the artifact's content, or problems."""

    problems: list[tuple[str, str]] = []
    content: dict[str, Any] | None = None

    def artifact(self) -> Artifact:
        """The artifact; only if there are no problems."""
        assert self.content is not None
        return Artifact.of(self.content)


def compile_isolated(root: Path, app: str | None) -> Compilation:
    """Compile the workspace at `root` in a child process."""
    reading, writing = os.pipe()
    command = [sys.executable, "-m", "aquilia.cli.isolated", str(writing), str(root), app or ""]
    try:
        with subprocess.Popen(
            command, cwd=root, pass_fds=[writing], stdin=subprocess.DEVNULL, stdout=sys.stderr
        ) as child:
            os.close(writing)
            with os.fdopen(reading, "rb") as pipe:
                answer = pipe.read()
    except KeyboardInterrupt:
        sys.exit(130)
    if not answer:
        where = app or "the workspace"
        message = f"its code ended the process when it was imported (exit status {child.returncode})"
        return Compilation(problems=[(where, message)])
    return msgspec.json.decode(answer, type=Compilation)


def _compile(root: Path, app: str | None) -> Compilation:
    from aquilia.server import boot
    from aquilia.sockets.compile import compile_plan
    from aquilia.workspace import load_workspace

    try:
        application = boot(load_workspace(root, app))
    except BootError as error:
        return Compilation(problems=[_plain(problem) for problem in error.problems])
    except ManifestError as error:
        return Compilation(problems=[("manifest", str(error))])
    return Compilation(content=dict(compile_plan(application.sockets.plan).content))


def _plain(problem: Problem) -> tuple[str, str]:
    return problem.where, problem.message


def _main() -> None:
    handle, root, app = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] or None
    os.set_inheritable(handle, False)
    result = msgspec.json.encode(_compile(root, app))
    with os.fdopen(handle, "wb") as pipe:
        pipe.write(result)
        pipe.flush()
    os._exit(0)  # whatever threads or exit hooks the workspace has left


if __name__ == "__main__":
    _main()
