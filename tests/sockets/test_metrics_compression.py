"""What compression does to bytes, as the metrics tell it."""

from __future__ import annotations

from typing import Any

import pytest
from rawsocket import TEXT, RawSocket, frame
from test_compression import DEFLATE, LONG, Raw, deflated, message, packed
from wire import serving

from aquilia.sockets import AquilaSockets, Compression, Socket
from aquilia.sockets.transports.http import HTTPProtocol
from aquilia.sockets.transports.native import NativeProtocol


@pytest.mark.parametrize("mode", ["shared", "context"])
async def test_bytes_before_and_after_are_counted_both_ways(mode: Any) -> None:
    controller = Socket("/raw")(type("AnyRaw", (Raw,), {}))
    sockets = AquilaSockets.from_controllers([controller], compression=Compression(mode), metrics="collect")
    metrics = sockets.metrics
    assert metrics is not None
    async with serving(sockets, ws=NativeProtocol, http=HTTPProtocol) as base:
        async with RawSocket.open(f"{base}/raw", Sec_WebSocket_Extensions=DEFLATE) as raw:
            said = message(LONG)
            raw.send(packed(said), packed(message("short")), frame(TEXT, said))
            answered = [(await raw.read()).payload for _ in range(3)]
    figures = {
        (sample.name, sample.labels["way"]): sample.value
        for family in metrics.collect()
        for sample in family.samples
        if "way" in sample.labels
    }
    plain, wire = "aquilia_deflated_plain_bytes_total", "aquilia_deflated_wire_bytes_total"
    assert figures[plain, "received"] == len(said) + len(message("short"))
    assert figures[wire, "received"] == len(deflated(said)) + len(deflated(message("short")))
    assert figures[wire, "sent"] == len(answered[0]) + len(answered[2])
    assert figures[plain, "sent"] > 2 * len(LONG)
