"""The codecs of the wire protocol: JSON, MessagePack and CBOR carry the same envelopes.

What they agree on:

- A repeated key: the last one counts. Unknown keys of the envelope are ignored, null is as good as absent.
- Containers nest 64 deep, the envelope being the first.
- Dates, UUIDs, decimals and the like are written as strings, as in JSON; the binary codecs read their own forms
  of dates and UUIDs too. Bytes are base64 in JSON and native in the others. A Pydantic model is what its own JSON
  mode makes of it.
- NaN and the infinities are refused in JSON and pass in the others; JSON writes them as null.
- An integer has any size in JSON, and up to 1024 bits in CBOR. MessagePack has 64 bits: it writes a larger one as
  a double, which is what most readers make of it in JSON.
- A map has any keys that its type allows. Where the type leaves that open, they are strings, numbers, bytes, dates
  and UUIDs: what JSON can write.
- MessagePack extensions are refused but timestamps; CBOR tags but 0, 1 (dates), 2, 3 (big integers) and 37 (UUID),
  and simple values but undefined, which is read as null. CBOR may have indefinite lengths.
"""

from __future__ import annotations

from difflib import get_close_matches

from aquilia.sockets.codecs.base import Codec
from aquilia.sockets.codecs.cbor import CborCodec
from aquilia.sockets.codecs.json import JsonCodec
from aquilia.sockets.codecs.msgpack import MsgpackCodec

__all__ = ["CODECS", "CborCodec", "Codec", "JsonCodec", "MsgpackCodec", "codec"]

CODECS: dict[str, Codec] = {"json": JsonCodec(), "msgpack": MsgpackCodec(), "cbor": CborCodec()}
"""The shared instance of each codec. They keep no state."""


def codec(name: str) -> Codec:
    """The shared codec of that name.

    Raises:
        ValueError: there is none; the nearest name is told.
    """
    try:
        return CODECS[name]
    except KeyError:
        near = get_close_matches(name, CODECS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown codec {name!r}{hint} (accepted: {', '.join(CODECS)})") from None
