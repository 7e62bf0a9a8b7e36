"""`aq serve --reload`: a fresh process after each change to a Python file of the workspace."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import uvicorn
from uvicorn.supervisors.basereload import BaseReload

__all__ = ["Reloader"]

Stamp = tuple[int, int, int]
_SKIPPED = frozenset({"__pycache__", "node_modules", "site-packages"})


class Reloader(BaseReload):
    """Runs `target(sockets=…)` in a child process, and anew when a file was changed, added or removed.

    uvicorn's own looks into virtual environments as well, and sees neither new files nor removed ones.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        target: Callable[[list[socket.socket] | None], None],
        sockets: list[socket.socket],
        root: Path,
    ) -> None:
        super().__init__(config, target, sockets)
        self.reloader_name = "aq"
        self._root = root
        self._seen = dict(_stamps(root))  # before the child reads them

    def should_restart(self) -> list[Path] | None:
        """See `BaseReload`: the files that differ from when the child was started."""
        self.pause()
        now = dict(_stamps(self._root))
        before, self._seen = self._seen, now
        return sorted({path for path, _ in before.items() ^ now.items()}) or None


def _stamps(root: Path) -> Iterator[tuple[Path, Stamp]]:
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and not name.startswith(".")]
        if "pyvenv.cfg" in files:
            folders.clear()
            continue
        for name in files:
            path = Path(folder, name)
            if path.suffix == ".py" and (stamp := _stamp(path)) is not None:
                yield path, stamp


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:  # gone in the meantime
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
