"""Functions as WebSocket handlers: `aquilia.sockets.compat`, under both transports and with real clients."""

from __future__ import annotations

import asyncio
import json
import warnings
from typing import Any

import httpx
import msgspec
import pytest
from door import denial, listening
from legacy import DEPRECATED, Seen, application, closed, closed_after_all, connect, legacy, write
from rawsocket import RawSocket
from session_pages import SECRET
from wire import eventually, serving

from aquilia import AppManifest, SessionEngine
from aquilia.aquilary import BootError, Registry
from aquilia.sockets import (
    AquilaSockets,
    LoggingMiddleware,
    RateLimitGuard,
    SocketController,
)
from aquilia.sockets.compat import Flow, FlowRequest
from aquilia.sockets.compile import artifact_of

pytestmark = DEPRECATED


@pytest.fixture
def seen() -> Seen:
    return Seen()


@pytest.fixture
def app(seen: Seen) -> AquilaSockets:
    return application(seen)


# A function and its client


async def test_text_and_bytes_go_both_ways_as_they_are(base: str) -> None:
    async with connect(f"{base}/echo/a") as client:
        for message in ("plain", '{"of": "my own"}', "", "ä🦅", b"\x00\xff", b""):
            await client.send(message)
            assert await client.recv() == message


async def test_messages_keep_their_order(base: str) -> None:
    sent = [str(number) if number % 3 else str(number).encode() for number in range(500)]
    async with connect(f"{base}/echo/a") as client:
        writing = asyncio.create_task(write(client, sent))

        assert [await client.recv() for _ in sent] == sent

        await writing


async def test_a_request_tells_of_the_handshake(base: str) -> None:
    url = f"{base}/about/7?name=ann&colour=red"
    headers = {"X-Colour": "red", "Cookie": "a=1"}
    async with connect(url, additional_headers=headers) as client:
        told = json.loads(await client.recv())

        assert await closed(client) == (1000, "")

    assert told == {
        "path": "/about/7",
        "params": {"id": 7},
        "query": {"name": "ann", "colour": "red"},
        "header": "red",
        "cookies": {"a": "1"},
        "host": "127.0.0.1",
        "identity": "ann",
        "session": None,
        "state": {"asked": True},
    }
    assert client.response is not None
    assert client.response.headers["x-house"] == "aquilia"


async def test_the_function_chooses_among_the_subprotocols_that_were_offered(base: str) -> None:
    offered: list[Any] = ["soap", "aquilia.v1.json"]
    headers = {"X-Colour": "red"}
    for chosen in offered:
        url = f"{base}/about/7?subprotocol={chosen}"
        async with connect(url, subprotocols=offered, additional_headers=headers) as client:
            assert client.subprotocol == chosen
    async with connect(f"{base}/about/7", subprotocols=offered, additional_headers=headers) as client:
        assert client.subprotocol is None


async def test_a_subprotocol_that_was_not_offered_is_a_mistake(base: str) -> None:
    with listening() as complaints:
        status, _ = await denial(f"{base}/about/7?subprotocol=soap")

        assert status == 500
        assert any("did not offer the subprotocol 'soap'" in complaint for complaint in complaints.take())


async def test_each_kind_of_message_has_its_verb(base: str, seen: Seen) -> None:
    async with connect(f"{base}/typed") as client:
        await client.send("text")
        assert await client.recv() == "text"
        await client.send(b"bytes")
        assert await client.recv() == b"bytes"
        await client.send('[1, {"a": null}]')
        assert json.loads(await client.recv()) == [1, {"a": None}]

        assert await closed(client) == (4000, "enough")
    await eventually(lambda: seen.notes == ["closed"])


@pytest.mark.parametrize(
    ("sent", "code", "told"),
    [
        ([b"x"], 1003, "a text message is expected"),
        (["x", "y"], 1003, "a binary message is expected"),
        (["x", b"y", "{"], 1007, "this message is no JSON"),
        (["x", b"y", "[" * 30_000], 1007, "this message is no JSON"),
    ],
)
async def test_a_message_of_another_kind_ends_the_connection(
    base: str, sent: list[str | bytes], code: int, told: str
) -> None:
    async with connect(f"{base}/typed") as client:
        await write(client, sent)

        ended, reason = await closed_after_all(client)

    assert ended == code
    assert told in reason


# Who is not let in


@pytest.mark.parametrize(
    ("how", "status", "body"),
    [
        ("close", 403, {"code": "WS_FORBIDDEN", "message": "not today"}),
        ("nothing", 403, {"code": "WS_FORBIDDEN", "message": "not allowed"}),
        ("fault", 429, {"code": "SOLD_OUT", "message": "nothing is left"}),
        ("never", 503, {"code": "WS_OVERLOADED"}),
    ],
)
async def test_a_function_that_does_not_accept_refuses(
    base: str, app: AquilaSockets, seen: Seen, how: str, status: int, body: dict[str, str]
) -> None:
    refused, told = await denial(f"{base}/refusing/{how}")

    assert refused == status
    assert body.items() <= told.items()
    await eventually(lambda: app.live()["tasks"] == 0)
    assert app.live() == {"connections": 0, "namespaces": 1, "rooms": 0, "tasks": 0}
    assert seen.notes == {"close": ["goes on"], "never": ["given up"]}.get(how, [])


async def test_a_function_that_stays_after_it_has_refused_ends_and_is_no_incident(
    base: str, app: AquilaSockets
) -> None:
    with listening() as complaints:
        refused, _ = await denial(f"{base}/refusing/close%20and%20stay")
        await eventually(lambda: app.live()["tasks"] == 0)
        told = complaints.take()

    assert refused == 403
    assert not any("incident" in line for line in told)


@pytest.mark.parametrize("how", ["refusing", "failing"])
async def test_a_function_that_ends_with_what_is_no_error_leaves_nobody_waiting(
    base: str, app: AquilaSockets, how: str
) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    if how == "refusing":
        assert (await denial(f"{base}/refusing/outcome"))[0] == 500
    else:
        async with connect(f"{base}/failing/outcome") as client:
            await client.send("go")
            assert (await closed(client))[0] == 1011
    await eventually(lambda: app.live()["tasks"] == 0)


@pytest.mark.parametrize("data", [5, "text", [1, 2]])
async def test_only_what_has_bytes_is_sent_as_bytes(data: Any) -> None:
    flow, told = Flow(), list[str]()

    with pytest.warns(DeprecationWarning, match="Write a controller instead"):

        @flow.ws("/sends")
        async def sends(request: FlowRequest) -> None:
            await request.accept()
            try:
                await request.send_bytes(data)
            except TypeError as error:
                told.append(str(error))
            await request.send_bytes(bytearray(b"end"))

    async with serving(AquilaSockets.from_controllers(flow.controllers)) as base:
        async with connect(f"{base}/sends") as client:
            assert await client.recv() == b"end"
    assert len(told) == 1


@pytest.mark.parametrize(
    ("how", "logged"), [("error", "a secret"), ("early", "`await request.accept()` comes first")]
)
async def test_an_error_before_the_acceptance_is_told_by_an_incident(
    base: str, how: str, logged: str
) -> None:
    with listening() as complaints:
        status, body = await denial(f"{base}/refusing/{how}")

        assert (status, body["code"]) == (500, "WS_INTERNAL_ERROR")
        assert "secret" not in body["message"]
        incident = body["message"].split()[-1]
        assert any(incident in told and logged in told for told in complaints.take())


async def test_origin_host_and_number_of_connections_are_checked_before_the_function(
    base: str, seen: Seen
) -> None:
    url = f"{base}/refusing/close"
    assert (await denial(url, origin="https://foe.example"))[1]["code"] == "WS_ORIGIN_NOT_ALLOWED"
    async with RawSocket.open(url, Host="elsewhere.example") as stranger:
        assert stranger.status == 400
    async with connect(f"{base}/few"):
        assert (await denial(f"{base}/few"))[1]["message"] == "too many connections"
    assert seen.notes == []
    assert (await denial(url, origin="https://friend.example"))[1]["message"] == "not today"
    async with connect(f"{base}/few"):
        pass  # there is room again


async def test_handshake_middleware_and_guards_are_asked_before_the_function(base: str) -> None:
    status, body = await denial(f"{base}/echo/a?name=nobody")
    assert (status, body["code"]) == (401, "NOBODY")
    status, body = await denial(f"{base}/guarded")
    assert (status, body["code"]) == (403, "WS_FORBIDDEN")
    async with connect(f"{base}/guarded?invited=yes") as client:
        assert await client.recv() == "come in"


# The declaration


def test_the_warning_names_the_place_and_what_to_write() -> None:
    flow = Flow()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")

        @flow.ws("/chat/:room")
        async def chat_handler(request: FlowRequest) -> None: ...

    (warning,) = caught
    line = chat_handler.__code__.co_firstlineno
    assert (warning.category, warning.filename, warning.lineno) == (DeprecationWarning, __file__, line)
    text = str(warning.message)
    assert f"{chat_handler.__qualname__} ({__file__}:{line})" in text
    assert '@Socket("/chat/:room")' in text
    assert "class ChatSocket(SocketController):" in text
    assert "@OnConnect()" in text


def test_a_flow_has_a_controller_for_each_function_in_their_order(seen: Seen) -> None:
    flow = legacy(seen)

    assert [controller.__name__ for controller in flow.controllers][:3] == ["echo", "about", "typed"]
    assert all(issubclass(controller, SocketController) for controller in flow.controllers)


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"@flow.ws\('/x'\) is for an `async def` function, not "):
        Flow().ws("/x")(print)  # type: ignore[type-var]


def problems(flow: Flow, **settings: Any) -> list[str]:
    with pytest.raises(BootError) as refused:
        AquilaSockets.from_controllers(flow.controllers, **settings)
    for problem in refused.value.problems:
        assert __file__ in problem.where, problem
    return [problem.message for problem in refused.value.problems]


def test_rules_that_raw_messages_cannot_keep_are_refused_by_name() -> None:
    flow = Flow()

    @flow.ws("/x", guards=[RateLimitGuard()])
    async def handler(request: FlowRequest) -> None: ...

    told = problems(
        flow,
        guards=[RateLimitGuard()],
        message_middleware=[LoggingMiddleware()],
        backpressure={"strategy": "drop_oldest"},
    )

    assert len(told) == 4
    assert all("is a function, whose messages are no envelopes" in problem for problem in told)
    assert sum("RateLimitGuard cannot guard them" in problem for problem in told) == 2
    assert any("LoggingMiddleware cannot wrap them" in problem for problem in told)
    assert any("'drop_oldest' dropped (accepted: 'buffer', 'disconnect')" in problem for problem in told)


def test_a_function_of_another_form_is_refused() -> None:
    flow = Flow()

    @flow.ws("/sync")  # type: ignore[type-var]
    def sync(request: FlowRequest) -> None: ...

    @flow.ws("/more")  # type: ignore[arg-type]
    async def more(request: FlowRequest, room: str) -> None: ...

    @flow.ws("/:bad:kind", max_message_size=0)
    async def bad(request: FlowRequest) -> None: ...

    told = "\n".join(problems(flow))

    assert "sync is not async; write `async def`" in told
    assert "more must take (request), and nothing else" in told
    assert "max_message_size: a whole number of at least 1 is needed, not 0" in told
    assert "kind" in told


def test_a_path_that_a_controller_has_already_is_refused() -> None:
    flow = Flow()

    @flow.ws("/x/:a")
    async def one(request: FlowRequest) -> None: ...

    @flow.ws("/x/:b")
    async def other(request: FlowRequest) -> None: ...

    assert "/x/:b" in "\n".join(problems(flow))


def test_the_artifact_says_that_a_namespace_has_a_function(app: AquilaSockets) -> None:
    written = msgspec.to_builtins(artifact_of(app.plan))

    (echo,) = [each for each in written["namespaces"] if each["path"] == "/echo/:room"]
    assert echo["function"] == "legacy:legacy.<locals>.echo"
    assert echo["events"] == ()


def test_a_manifest_lists_the_functions_beside_controllers(seen: Seen) -> None:
    manifest = AppManifest("old", controllers=[*legacy(seen).controllers])

    assert len(Registry.build([manifest]).apps[0].controllers) == len(manifest.controllers)


async def test_what_a_function_puts_into_the_session_is_kept() -> None:
    flow = Flow()
    engine = SessionEngine(SECRET)

    @flow.ws("/count")
    async def count(request: FlowRequest) -> None:
        request.session["before"] = True
        await request.accept()
        request.session["visits"] = request.session.get("visits", 0) + 1
        await request.send_json(dict(request.session))

    app = AquilaSockets.from_controllers(flow.controllers, sessions=engine)
    async with serving(app) as base:
        async with connect(f"{base}/count") as client:
            assert json.loads(await client.recv()) == {"before": True, "visits": 1}
            cookie = client.response.headers["set-cookie"].partition(";")[0]
        await eventually(lambda: not app.live()["connections"])
        async with connect(f"{base}/count", additional_headers={"cookie": cookie}) as client:
            assert json.loads(await client.recv()) == {"before": True, "visits": 2}


async def test_the_messages_of_functions_are_in_the_metrics(seen: Seen) -> None:
    app = AquilaSockets.from_controllers(legacy(seen).controllers, metrics=True)
    async with serving(app) as base, connect(f"{base}/echo/a") as client:
        await client.send("four")
        assert await client.recv() == "four"
        async with httpx.AsyncClient() as http:
            text = (await http.get(base.replace("ws", "http", 1) + "/metrics")).text
    assert 'aquilia_received_bytes_total{event="",pattern="/echo/:room",type="other"} 4.0' in text
    assert 'aquilia_sent_bytes_total{event="",pattern="/echo/:room",type="other"} 4.0' in text
