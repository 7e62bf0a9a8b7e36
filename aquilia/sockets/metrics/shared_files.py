"""The files by which several processes share their metrics: those of prometheus-client."""

from __future__ import annotations

import contextlib
import glob
import logging
import os
from collections.abc import Iterable, Iterator
from typing import Any

from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.values import ValueClass

from aquilia.sockets.metrics.families import FAMILIES, Family, Sample, bound_label
from aquilia.sockets.metrics.figures import Distribution

__all__ = ["AllFiles", "SharedFiles", "bury_the_dead", "folder", "multiprocess_problem"]

logger = logging.getLogger("aquilia.sockets")


def folder() -> str | None:
    """The folder of the files, if several processes share their metrics."""
    return os.environ.get("PROMETHEUS_MULTIPROC_DIR")


def multiprocess_problem() -> str | None:
    """Why the workers of this application could not share their figures, if they are meant to."""
    path = folder()
    if path is None:
        return None
    if not os.path.isdir(path) or not os.access(path, os.W_OK):
        return f"PROMETHEUS_MULTIPROC_DIR: {path!r} is no folder that can be written to; make an empty one"
    if not ValueClass._multiprocess:
        return "PROMETHEUS_MULTIPROC_DIR was set after prometheus_client had been imported: set it before"
    return None


_values: dict[tuple[str, tuple[str, ...]], Any] = {}
"""The values in this process' files: shared, for two objects on one place would overwrite each other."""


class SharedFiles:
    """Adds what figures have grown by to the files of prometheus-client.

    Only its own value class opens them: the application's metrics are in the same files.
    """

    def __init__(self) -> None:
        self._written: dict[tuple[str, tuple[str, ...]], float] = {}

    def clear_torn(self) -> None:
        """Remove files that an earlier process with this number left torn: there would be no writing to them."""
        for file in _files(f"*_{os.getpid()}.db"):
            if os.path.getsize(file) and not _readable(file):
                os.remove(file)

    def write(self, samples: Iterable[Sample]) -> None:
        """Bring the files up to these samples."""
        for family, labels, value in samples:
            if isinstance(value, Distribution):
                bounds = (*value.bounds, float("inf"))
                for bound, count in zip(bounds, value.counts, strict=True):
                    self._add(family, f"{family.name}_bucket", (*labels, bound_label(bound)), count)
                self._add(family, f"{family.name}_sum", labels, value.total)
            else:
                self._add(family, family.name, labels, value)

    def leave(self) -> None:
        """Take back what holds only while the process lives."""
        for (name, labels), written in self._written.items():
            if written and name in FAMILIES and FAMILIES[name].type == "gauge":
                self._add(FAMILIES[name], name, labels, 0)

    def _add(self, family: Family, name: str, labels: tuple[str, ...], value: float) -> None:
        key = name, labels
        written = self._written.get(key)
        if value == written:
            return
        found = _values.get(key)
        if found is None:
            found = _values[key] = _value(family, name, labels)
        if family.merge == "livemax":
            found.set(value)
        else:
            found.inc(value - (written or 0))
        self._written[key] = value


def _value(family: Family, name: str, labels: tuple[str, ...]) -> Any:
    names = (*family.labels, "le") if name.endswith("_bucket") else family.labels
    mode = {"multiprocess_mode": family.merge} if family.type == "gauge" else {}
    metric = family.name.removesuffix("_total")
    value = ValueClass(family.type, metric, name, names, labels, family.help, **mode)
    if family.type == "gauge":
        value.set(0)  # not what an earlier process with this number has left
    return value


class AllFiles:
    """What the files of all processes say together: a collector of prometheus-client.

    A file that is torn, or just being made, is left out: else one of them would take the figures of all away.
    """

    def __init__(self) -> None:
        self._torn: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        files = _files("*.db")
        try:
            merged = _merged(files)
        except Exception:
            merged = _merged([file for file in files if _readable(file) or self._tell(file)])
        yield from merged

    def _tell(self, file: str) -> bool:
        """That a file is left out; once, and always False."""
        if file not in self._torn and os.path.exists(file) and os.path.getsize(file):
            self._torn.add(file)
            logger.warning("%s is torn, and left out of the metrics: remove it", file)
        return False


def _files(pattern: str) -> list[str]:
    return glob.glob(os.path.join(glob.escape(folder() or ""), pattern))


def _merged(files: list[str]) -> Iterable[Metric]:
    found: Iterable[Metric] = MultiProcessCollector.merge(files)  # type: ignore[no-untyped-call]
    return found


def _readable(file: str) -> bool:
    try:
        _merged([file])
    except Exception:  # there is no end to what torn bytes can be taken for
        return False
    return True


def bury_the_dead() -> None:
    """Forget the gauges of processes that have ended without a word. What they counted stays counted."""
    found = _files("gauge_live*_*.db")
    for number in {os.path.basename(file)[: -len(".db")].rpartition("_")[2] for file in found}:
        if number.isdigit() and not _lives(int(number)):
            with contextlib.suppress(FileNotFoundError):  # another worker was faster
                mark_process_dead(int(number))  # type: ignore[no-untyped-call]


def _lives(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
