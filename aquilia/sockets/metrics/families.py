"""The metrics that there are: their names, labels and meanings."""

from __future__ import annotations

from typing import Literal, NamedTuple

from aquilia.sockets.metrics.figures import Distribution

__all__ = ["FAMILIES", "Family", "Sample", "bound_label"]


class Family(NamedTuple):
    """A metric: its name as it is queried, and what it means. `merge` says how a gauge of many workers is one."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    merge: Literal["livesum", "livemax"] = "livesum"


_PATTERN = ("pattern",)
_MESSAGE = ("pattern", "type", "event")
_EVENT = ("pattern", "event")

FAMILIES = {
    family.name: family
    for family in (
        Family("aquilia_connections", "gauge", _PATTERN, "Connections that are open."),
        Family("aquilia_connections_opened_total", "counter", _PATTERN, "Connections that were upgraded."),
        Family(
            "aquilia_connections_closed_total",
            "counter",
            ("pattern", "code"),
            "Connections that ended, by close code.",
        ),
        Family(
            "aquilia_connections_paused",
            "gauge",
            _PATTERN,
            "Connections that are not read from until they have caught up.",
        ),
        Family(
            "aquilia_handshakes_total",
            "counter",
            ("pattern", "outcome"),
            "Handshakes, by outcome: accepted, or the code that refused them.",
        ),
        Family(
            "aquilia_limited_total",
            "counter",
            ("pattern", "limit"),
            "What clients were refused, by the setting that is the limit.",
        ),
        Family(
            "aquilia_resumes_total",
            "counter",
            ("pattern", "outcome"),
            "Clients that came back with a token, by outcome: resumed, invalid, unknown or replayed.",
        ),
        Family("aquilia_messages_received_total", "counter", _MESSAGE, "Messages from clients."),
        Family("aquilia_received_bytes_total", "counter", _MESSAGE, "Bytes of messages from clients."),
        Family(
            "aquilia_messages_sent_total", "counter", _MESSAGE, "Messages to clients, one for each receiver."
        ),
        Family("aquilia_sent_bytes_total", "counter", _MESSAGE, "Bytes of frames to clients."),
        Family(
            "aquilia_deflated_plain_bytes_total",
            "counter",
            ("pattern", "way"),
            "Bytes of messages that aq serve has compressed or inflated, without compression.",
        ),
        Family(
            "aquilia_deflated_wire_bytes_total",
            "counter",
            ("pattern", "way"),
            "Bytes of the same messages with it.",
        ),
        Family(
            "aquilia_messages_dropped_total",
            "counter",
            ("pattern", "cause"),
            "Messages that a client did not get: "
            "slow_consumer, outbox_bytes, spool_full, spool_failed, disconnected, or conflated, which is no loss; "
            "broker_lost is one for each member of a plain room that may have missed something; "
            "foreign is what was written to the broker and is no publication of ours.",
        ),
        Family(
            "aquilia_handler_seconds",
            "histogram",
            _EVENT,
            "Seconds from the turn of a message to its answer: middleware, guards, schema and method.",
        ),
        Family(
            "aquilia_span_seconds",
            "histogram",
            (*_EVENT, "span"),
            "Seconds within a MetricsMiddleware, by its span.",
        ),
        Family("aquilia_fanout_members", "histogram", _EVENT, "Receivers of a publication in one process."),
        Family(
            "aquilia_fanout_seconds",
            "histogram",
            _EVENT,
            "Seconds until a publication was written to, or queued for, its last receiver.",
        ),
        Family("aquilia_outbox_messages", "gauge", _PATTERN, "Messages that wait for clients to read."),
        Family(
            "aquilia_outbox_messages_max",
            "gauge",
            _PATTERN,
            "Messages that wait for the client that is furthest behind.",
            "livemax",
        ),
        Family("aquilia_outbox_bytes", "gauge", _PATTERN, "Bytes that wait for clients to read, in memory."),
        Family(
            "aquilia_spool_bytes",
            "gauge",
            _PATTERN,
            "Bytes that wait on disk, or are on their way there.",
        ),
        Family(
            "aquilia_inbox_bytes",
            "gauge",
            _PATTERN,
            "Bytes that were read and wait to be handled, or for the rest of their message.",
        ),
        Family(
            "aquilia_faults_total",
            "counter",
            ("pattern", "code"),
            "Faults that clients were answered with, or OnPresence ended with.",
        ),
        Family("aquilia_unmatched_acks_total", "counter", _PATTERN, "Acks that nobody waited for."),
        Family("aquilia_namespaces", "gauge", _PATTERN, "Namespaces that are open."),
        Family("aquilia_rooms", "gauge", _PATTERN, "Rooms that have members."),
        Family(
            "aquilia_presence_entries",
            "gauge",
            _PATTERN,
            "Who is present in rooms with members here, as this process knows it: a room on several nodes "
            "counts on each.",
        ),
        Family(
            "aquilia_presence_members",
            "gauge",
            _PATTERN,
            "Connections in rooms with presence.",
        ),
        Family(
            "aquilia_presence_changes_total",
            "counter",
            ("pattern", "change"),
            "Who came or has other metadata, and who left, by change: join or leave; on each node with "
            "members there.",
        ),
        Family(
            "aquilia_presence_frames_total",
            "counter",
            _PATTERN,
            "Changes of presence that were sent to clients, one for each receiver.",
        ),
        Family(
            "aquilia_admin_actions_total",
            "counter",
            ("action", "result"),
            "What an admin did by way of this node: done, incomplete where nodes were silent, or refused.",
        ),
    )
}


class Sample(NamedTuple):
    """A figure of a family, with the values of its labels in order."""

    family: Family
    labels: tuple[str, ...]
    value: float | Distribution


def bound_label(value: float) -> str:
    """An upper bound of a histogram, as its label has it."""
    return "+Inf" if value == float("inf") else repr(float(value))
