"""Metrics: the figures of this process, or of all workers, as Prometheus reads them.

Nothing here is on the way of a message. Figures become samples when somebody asks. With `PROMETHEUS_MULTIPROC_DIR`
set, as prometheus-client has it for several processes, they are also added to its files each second; whichever
worker is asked reads the files of all.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder, gzip_accepted
from prometheus_client.registry import Collector
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Send
from starlette.types import Scope as ASGIScope

from aquilia.sockets.metrics.families import FAMILIES, Family, Sample, bound_label
from aquilia.sockets.metrics.figures import Distribution, Figures, Tally
from aquilia.sockets.metrics.shared_files import (
    AllFiles,
    SharedFiles,
    bury_the_dead,
    folder,
    multiprocess_problem,
)
from aquilia.sockets.open_namespace import Home

__all__ = ["Metrics"]

logger = logging.getLogger("aquilia.sockets")

FLUSH = 1.0
"""Seconds between two additions to the files that workers share."""
SLICE = 512
"""Connections that are looked at before the loop has its turn."""


@dataclass(slots=True)
class Levels:
    """What connections of one pattern hold at a moment."""

    messages: int = 0
    most: int = 0
    bytes: int = 0
    spooled: int = 0
    unhandled: int = 0
    paused: int = 0
    namespaces: int = 0
    rooms: int = 0
    present: int = 0
    entries: int = 0


_LEVELS = {
    "aquilia_outbox_messages": "messages",
    "aquilia_outbox_messages_max": "most",
    "aquilia_outbox_bytes": "bytes",
    "aquilia_spool_bytes": "spooled",
    "aquilia_inbox_bytes": "unhandled",
    "aquilia_connections_paused": "paused",
    "aquilia_namespaces": "namespaces",
    "aquilia_rooms": "rooms",
    "aquilia_presence_members": "present",
    "aquilia_presence_entries": "entries",
}


class Metrics:
    """The metrics of one `AquilaSockets`: an ASGI application that serves them, and a collector of prometheus-client.

        app.add_route("/internal/metrics", sockets.metrics)
        REGISTRY.register(sockets.metrics)  # in the place of it, where the host serves that registry

    What it serves has the metrics of prometheus-client's default registry as well: the application's own.
    """

    def __init__(
        self,
        figures: Figures,
        homes: Callable[[], Iterable[Home]],
        present: Callable[[], Iterable[tuple[str, int]]] = tuple,
    ) -> None:
        self._figures = figures
        self._homes = homes
        self._present = present
        """For each room with presence its pattern, and how many are there."""
        self._shared = SharedFiles() if multiprocess_problem() is None and folder() else None
        self._all = AllFiles()
        self._failed = False
        self._flushing: asyncio.Task[None] | None = None

    # The life of it

    async def start(self) -> None:
        """Begin to add to the shared files, where there are any."""
        if self._shared is not None:
            self._shared.clear_torn()
            self._flushing = asyncio.get_running_loop().create_task(self._keep_flushing(self._shared))

    async def stop(self) -> None:
        """Add the last figures. Counters stay for other workers to show; gauges end with the process."""
        task, self._flushing = self._flushing, None
        if task is not None and self._shared is not None:
            task.cancel()
            await asyncio.wait([task])
            if self._flush(self._shared, self._samples(await self._levels())):
                self._shared.leave()

    async def _keep_flushing(self, shared: SharedFiles) -> None:
        while True:
            self._flush(shared, self._samples(await self._levels()))
            await asyncio.sleep(FLUSH)

    def _flush(self, shared: SharedFiles, samples: Iterable[Sample]) -> bool:
        """Whether these could be written. If not, the next flush adds them; the log says so once."""
        failed, self._failed = self._failed, False
        try:
            shared.write(samples)
        except Exception:
            self._failed = True
            if not failed:
                logger.exception("metrics could not be written to PROMETHEUS_MULTIPROC_DIR")
        return not self._failed

    # What is read

    def collect(self) -> Iterator[Metric]:
        """The metrics of this process, for a registry of prometheus-client."""
        levels: dict[str, Levels] = {}
        for _ in self._survey(levels):
            pass
        return _families(self._samples(levels))

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        """Answer a scrape."""
        if scope["method"] not in ("GET", "HEAD"):
            response = Response(status_code=405, headers={"allow": "GET, HEAD"})
        else:
            names = QueryParams(scope.get("query_string", b"")).getlist("name[]")
            response = await self._exposition(Headers(scope=scope), names)
        await response(scope, receive, send)

    async def _exposition(self, headers: Headers, names: Sequence[str]) -> Response:
        samples = list(self._samples(await self._levels()))
        registry = CollectorRegistry(
            support_collectors_without_names=True
        )  # else `name[]` would find nothing
        if self._shared is not None:
            if not self._flush(self._shared, samples) or multiprocess_problem():
                return Response("PROMETHEUS_MULTIPROC_DIR cannot be written to", 503, media_type="text/plain")
            bury_the_dead()
            registry.register(self._all)
        else:
            registry.register(_Beside(samples))
        encode, content_type = choose_encoder(headers.get("accept", ""))
        compress = gzip_accepted(headers.get("accept-encoding", ""))
        # Thousands of samples are milliseconds of text, and clients wait for this loop.
        wanted = registry.restricted_registry(names) if names else registry
        body = await asyncio.to_thread(_written, encode, wanted, compress)
        more = {"content-encoding": "gzip"} if compress else {}
        return Response(body, headers={"content-type": content_type, "vary": "accept-encoding", **more})

    # The figures

    def _survey(self, levels: dict[str, Levels]) -> Iterator[None]:
        """Look at all connections, and pause between two slices of them."""
        seen = 0
        for pattern in self._figures.meters:
            levels[pattern] = Levels()
        for home in list(self._homes()):
            level = levels.setdefault(home.pattern, Levels())
            level.namespaces += 1
            level.rooms += len(home.rooms)
            if home.presence is not None:
                level.present += sum(len(room) for room in home.rooms.values() if room.present)
            for conn in home.everyone():
                outbox = conn._outbox
                if waiting := len(outbox):
                    level.messages += waiting
                    level.most = max(level.most, waiting)
                level.bytes += outbox.waiting_bytes
                level.spooled += outbox.spooled_bytes
                level.unhandled += conn._intake
                level.paused += conn._paused
                seen += 1
                if seen % SLICE == 0:
                    yield
        for pattern, count in self._present():
            levels.setdefault(pattern, Levels()).entries += count

    async def _levels(self) -> dict[str, Levels]:
        levels: dict[str, Levels] = {}
        for _ in self._survey(levels):
            await asyncio.sleep(0)
        return levels

    def _samples(self, levels: dict[str, Levels]) -> Iterator[Sample]:
        figures = self._figures
        yield from _counted("aquilia_connections", figures.connections)
        yield from _counted("aquilia_connections_opened_total", figures.opens)
        yield from _counted("aquilia_connections_closed_total", figures.closes)
        yield from _counted("aquilia_handshakes_total", figures.handshakes)
        yield from _counted("aquilia_limited_total", figures.limits)
        yield from _counted("aquilia_resumes_total", figures.resumes)
        yield from _counted("aquilia_messages_dropped_total", figures.drops)
        yield from _counted("aquilia_faults_total", figures.faults)
        yield from _counted("aquilia_unmatched_acks_total", figures.unmatched)
        yield from _counted("aquilia_presence_changes_total", figures.presences)
        yield from _counted("aquilia_presence_frames_total", figures.presence_frames)
        yield from _counted("aquilia_admin_actions_total", figures.actions)
        for name, attribute in _LEVELS.items():
            for pattern, level in levels.items():
                yield Sample(FAMILIES[name], (pattern,), getattr(level, attribute))
        for pattern, meter in figures.meters.items():
            yield from _messages("received", pattern, meter.received, meter.received_kinds)
            yield from _messages("sent", pattern, meter.sent, meter.sent_kinds)
            for way, deflated in meter.deflated.items():
                yield Sample(FAMILIES["aquilia_deflated_plain_bytes_total"], (pattern, way), deflated.plain)
                yield Sample(FAMILIES["aquilia_deflated_wire_bytes_total"], (pattern, way), deflated.wire)
            for event, distribution in meter.handling.items():
                yield Sample(FAMILIES["aquilia_handler_seconds"], (pattern, event), distribution)
            for event, publications in list(meter.fanout.items()):
                yield Sample(FAMILIES["aquilia_fanout_members"], (pattern, event), publications.members)
                yield Sample(FAMILIES["aquilia_fanout_seconds"], (pattern, event), publications.seconds)
            for (span, event), distribution in list(meter.spans.items()):
                yield Sample(FAMILIES["aquilia_span_seconds"], (pattern, event, span), distribution)


def _counted(name: str, counts: Any) -> Iterator[Sample]:
    for key, count in list(counts.items()):
        yield Sample(FAMILIES[name], (key,) if isinstance(key, str) else key, count)


def _messages(way: str, pattern: str, events: dict[str, Tally], kinds: dict[str, Tally]) -> Iterator[Sample]:
    tallies = [("event", event, tally) for event, tally in list(events.items())]
    tallies += [(kind, "", tally) for kind, tally in kinds.items()]
    for kind, event, tally in tallies:
        yield Sample(FAMILIES[f"aquilia_messages_{way}_total"], (pattern, kind, event), tally.messages)
        yield Sample(FAMILIES[f"aquilia_{way}_bytes_total"], (pattern, kind, event), tally.bytes)


# One process


def _families(samples: Iterable[Sample]) -> Iterator[Metric]:
    """The samples as prometheus-client has them."""
    found: dict[str, Any] = {name: _family(family) for name, family in FAMILIES.items()}
    for family, labels, value in samples:
        metric = found[family.name]
        if isinstance(value, Distribution):
            bounds = [bound_label(bound) for bound in (*value.bounds, float("inf"))]
            metric.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.total)
        else:
            metric.add_metric(labels, value)
    yield from found.values()


def _family(family: Family) -> Metric:
    kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily, "histogram": HistogramMetricFamily}
    made: Metric = kinds[family.type](family.name, family.help, labels=family.labels)
    return made


class _Beside:
    """Our metrics, and those of the default registry, which is the application's own."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        yield from _families(self._samples)
        for metric in REGISTRY.collect():
            if not metric.name.startswith("aquilia_"):  # ours may be registered there as well
                yield metric


def _written(encode: Callable[[Any], bytes], registry: Collector, compress: bool) -> bytes:
    text = encode(registry)
    return gzip.compress(text, 1) if compress else text
