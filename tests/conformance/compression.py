"""Autobahn's cases of compression, groups 12 and 13, as kosoku 0.1 can run them.

A message may go as it is where compression was agreed on (RFC 7692 section 6), and short ones of ours do. These cases
want bytes, to hash them; but kosoku gives bytes only for what came compressed, and else a string, which for binary
messages has a character for each byte. Here that becomes bytes. Nor does kosoku look at what the server answered to
its offers; websockets does.
"""

from __future__ import annotations

import re
import sys
from typing import Any

from kosoku.cases import CASES
from websockets import NegotiationError
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import parse_extension

# A stand-in of kosoku's for its cases, which pytest would take for the real one.
sys.modules.pop("pkg_resources", None)

GROUPS = ("12", "13")
VOLUME = 1 << 20
"""Bytes that the messages of one case may have together, of 1,000 messages or fewer,"""
LEAST = 8
"""but so many messages at least. Autobahn sends 1,000 of each size, 11 GB in all."""


def adapt() -> None:
    """Make the cases run. To be called once, before they are."""
    for name, case in CASES.items():
        if name.split(".")[0] in GROUPS:
            case.onMessage = _in_bytes(case.onMessage)
            case.COUNT = min(case.COUNT, max(LEAST, VOLUME // case.LEN))


def _in_bytes(on_message: Any) -> Any:
    def with_bytes(self: Any, message: str | bytes, binary: bool) -> None:
        if isinstance(message, str):
            message = message.encode("latin-1" if binary else "utf-8")
        on_message(self, message, binary)

    return with_bytes


def answer_fits(request: str, response: str) -> bool:
    """Whether the head of a response agrees to one of the offers of its request, if to any (RFC 7692 section 7.1)."""
    answered = _extensions(response)
    return not answered or any(_agrees(answered, offer) for offer in _extensions(request))


_HEADER = re.compile("^sec-websocket-extensions: (.*?)\r?$", re.IGNORECASE | re.MULTILINE)
_Extension = tuple[str, list[tuple[str, str | None]]]


def _extensions(head: str) -> list[_Extension]:
    return [extension for line in _HEADER.findall(head) for extension in parse_extension(line)]


def _agrees(answered: list[_Extension], offer: _Extension) -> bool:
    wanted: dict[str, Any] = {"client_max_window_bits": None}
    for parameter, value in offer[1]:
        wanted[parameter] = int(value) if value else True  # a flag, or bits that are left to the server
    try:
        ((name, parameters),) = answered
        ClientPerMessageDeflateFactory(**wanted).process_response_params(parameters, [])
    except (NegotiationError, ValueError):
        return False
    return name == offer[0]
