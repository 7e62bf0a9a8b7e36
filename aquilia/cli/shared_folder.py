"""A folder in which workers share their figures. Of what a killed process has left behind, the next one disposes."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

__all__ = ["shared_folder"]

PREFIX = "aquilia-metrics-"
_LOCK = "lock"
"""Whose folder it is holds this file locked for as long as it lives, whatever ends it."""


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """Make an empty folder among the temporary ones, and remove it in the end; and those of processes that are gone.

    Raises:
        OSError: there is no place for one.
    """
    import fcntl  # several workers need it as well

    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    made = Path(tempfile.mkdtemp(prefix=f".{PREFIX}"))
    with (made / _LOCK).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = made.rename(made.with_name(made.name[1:]))  # nobody finds it before it is locked
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    import fcntl

    try:
        if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
            return False
        with (folder / _LOCK).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody lives in it, or it is none of these
        return False
    return True
