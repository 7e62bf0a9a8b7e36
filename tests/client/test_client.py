"""The client against the real server, in every codec: calls, messages, answers, rooms, tokens, and coming back."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from tokens import JWT, token
from wire import TIMEOUT, serving

from aquilia.client import (
    AckTimeout,
    Client,
    ConnectionEnded,
    Disconnected,
    Joined,
    Rejected,
    ServerFault,
    State,
)
from aquilia.sockets import (
    AckEvent,
    AquilaSockets,
    Connection,
    Event,
    OnConnect,
    Socket,
    SocketController,
    Subscribe,
)

CODECS = ["json", "msgpack", "cbor"]


class Line(msgspec.Struct):
    text: str


@Socket("/hall/:name")
class Hall(SocketController):
    @OnConnect()
    async def greet(self, conn: Connection) -> None:
        await conn.send_event("welcome", {"msg": "Hi!"})

    @Subscribe("room:join")
    async def join(self, conn: Connection, payload: dict[str, Any]) -> str:
        return str(payload["room"])

    @Event("say")
    async def say(self, conn: Connection, line: Line) -> Line:
        await self.publish_room("general", "said", line)
        return line

    @AckEvent("ask")
    async def ask(self, conn: Connection, payload: Any) -> Any:
        return await conn.request("confirm", payload, timeout=TIMEOUT)

    @Event("sleep")
    async def sleep(self, conn: Connection) -> None:
        await asyncio.Event().wait()

    @Event("drop")
    async def drop(self, conn: Connection, code: int) -> None:
        await conn.disconnect(code, "WS_TESTED: so it was asked")


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def base(request: pytest.FixtureRequest) -> Any:
    options = getattr(request, "param", {})
    async with serving(AquilaSockets.from_controllers([Hall], **options)) as url:
        yield url


def client(base: str, codec: str = "json", **options: Any) -> Client:
    return Client(f"{base}/hall/acme", codec=codec, proxy=None, backoff_base=0.01, **options)


async def test_what_is_registered_at_once_misses_nothing_and_calls_are_answered(
    base: str, codec: str
) -> None:
    async with asyncio.timeout(TIMEOUT), client(base, codec) as chat:
        welcome = await anext(chat.messages("welcome"))
        assert (welcome.payload, chat.state) == ({"msg": "Hi!"}, State.CONNECTED)

        said, joined = chat.messages("said", type=Line), chat.stream(Joined)
        await chat.call("room:join", {"room": "general"})
        assert (await anext(joined)).room == "general"
        assert chat.rooms == {"general": None}
        assert await chat.call("say", {"text": "hey"}, type=Line) == Line("hey")
        message = await anext(said)
        assert (message.payload, message.room) == (Line("hey"), "general")
        assert isinstance(message.ts, int)


async def test_errors_keep_their_fields_and_those_without_an_id_are_noticed(base: str, codec: str) -> None:
    async with asyncio.timeout(TIMEOUT), client(base, codec) as chat:
        rejections = chat.stream(Rejected)
        with pytest.raises(ServerFault) as refused:
            await chat.call("say", {"text": 5})
        assert (refused.value.code, refused.value.retryable) == ("WS_MESSAGE_INVALID", True)
        assert refused.value.details == [{"path": "$.text", "expected": "str", "got": "int"}]

        await chat.send("nothing")
        rejected = await anext(rejections)
        assert (rejected.event, rejected.fault.code) == ("nothing", "WS_UNSUPPORTED_EVENT")


async def test_requests_of_the_server_are_answered(base: str, codec: str) -> None:
    chat = client(base, codec)

    @chat.answers("confirm")
    async def confirm(message: Any) -> Any:
        if message.payload == "bad":
            raise ValueError("a secret")
        return {"yes": message.payload}

    async with asyncio.timeout(TIMEOUT), chat:
        assert await chat.call("ask", "sure?") == {"yes": "sure?"}
        with pytest.raises(ServerFault) as refused:
            await chat.call("ask", "bad")
        assert "secret" not in str(refused.value)


async def test_an_ack_that_does_not_come_times_out(base: str) -> None:
    async with client(base) as chat:
        with pytest.raises(AckTimeout) as late:
            await chat.call("sleep", timeout=0.1)
        assert late.value.sent


async def test_a_code_that_says_come_back_brings_the_client_back(base: str, codec: str) -> None:
    async with asyncio.timeout(TIMEOUT), client(base, codec) as chat:
        await chat.call("room:join", {"room": "general"})
        news = chat.stream(Disconnected, State)
        await chat.send("drop", 4508)
        assert (await anext(news)).code == 4508
        assert await anext(news) is State.RECONNECTING
        assert await chat.call("say", {"text": "back"}) == {"text": "back"}
        assert await anext(news) is State.CONNECTED
        assert chat.rooms.keys() == {"general"}


@pytest.mark.parametrize("code", [4403, 4409])
async def test_a_code_that_says_stop_stops_the_client(base: str, code: int) -> None:
    async with asyncio.timeout(TIMEOUT), client(base) as chat:
        messages = chat.messages("said")
        await chat.send("drop", code)
        with pytest.raises(ConnectionEnded) as ended:
            await anext(messages)
        assert (ended.value.close_code, ended.value.code) == (code, "WS_TESTED")
        assert f"{code} (" in str(ended.value)
        with pytest.raises(ConnectionEnded):
            await chat.call("say", {"text": "?"})


@pytest.mark.parametrize("base", [{"auth": JWT, "require_auth": True}], indirect=True)
async def test_tokens_are_shown_renewed_and_asked_for_again_once(base: str, codec: str) -> None:
    given = iter(["nonsense", token("ann")])
    async with asyncio.timeout(TIMEOUT), client(base, codec, token=lambda: next(given)) as chat:
        await chat.authenticate(token("ann"))
        assert chat.state is State.CONNECTED

    with pytest.raises(ConnectionEnded) as refused:
        async with asyncio.timeout(TIMEOUT), client(base, codec, token="nonsense"):
            pass
    assert refused.value.close_code == 4401


async def test_closing_leaves_no_task(base: str) -> None:
    before = {task for task in asyncio.all_tasks() if "client" in task.get_name()}
    async with asyncio.timeout(TIMEOUT), client(base) as chat:
        await chat.call("say", {"text": "bye"})
        stream = chat.messages("said")
    assert chat.state is State.CLOSED
    assert [message async for message in stream] == []
    assert {task for task in asyncio.all_tasks() if "client" in task.get_name()} == before


async def test_who_cannot_be_reached_is_named() -> None:
    with pytest.raises(ConnectionEnded, match=r"ws://127\.0\.0\.1:1/chat cannot be reached"):
        async with Client("ws://127.0.0.1:1/chat", proxy=None):
            pass


@pytest.mark.parametrize(
    ("url", "options", "told"),
    [
        ("http://x/y", {}, "say ws://x/y"),
        ("https://x/y", {}, "say wss://x/y"),
        ("localhost:8000", {}, "begins with ws:// or wss://"),
        ("ws:///x", {}, "names no host"),
        ("ws://x", {"codec": "jsn"}, "did you mean 'json'"),
        ("ws://x", {"codec": "plain"}, "does not speak the plain profile"),
        ("ws://x", {"buffer": 0}, "buffer is 0"),
        ("ws://x", {"open_timeout": 0}, "open_timeout is 0"),
    ],
)
def test_wrong_arguments_are_told(url: str, options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told.replace("?", r"\?")):
        Client(url, **options)
