"""The test kit: what it sends and shows is real, every wait is bounded, and what fails says why."""

from __future__ import annotations

import asyncio
import json
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from kit_subject import LABEL, SUBPROTOCOLS, V1, ChatSocket, Line, Mail, OtherSocket, mail
from starlette.responses import Response

from aquilia import AppManifest
from aquilia.aquilary import BootError, Registry
from aquilia.controller import RequestCtx
from aquilia.middleware import CallNext
from aquilia.sockets import Connection, Event, OnConnect, OnDisconnect, Socket, SocketController, SocketFault
from aquilia.testing import HandshakeRefused, sockets_test


def opened(**options: Any) -> Any:
    return sockets_test(ChatSocket, services=[mail], **options)


# What a test may do


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_a_request_returns_the_data_of_its_ack_in_every_codec(subprotocol: str | None) -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x", subprotocol=subprotocol or ())
        assert await alice.request("say", {"text": "hi"}) == "HI"
        assert (await alice.expect("said")).payload == {"text": "hi"}
        assert alice.subprotocol == subprotocol


async def test_what_is_published_reaches_the_others_and_no_other_namespace() -> None:
    async with opened() as t:
        alice, bob = await t.connect("/chat/x"), await t.connect("/chat/x")
        eve = await t.connect("/chat/y")
        await alice.send("say", Line("hi"))

        got = await bob.expect("said")

        assert (got.payload, got.room) == ({"text": "hi"}, "all")
        await eve.expect_nothing()


async def test_the_handshake_carries_headers_query_identity_and_subprotocol() -> None:
    LABEL.set("of the test")
    async with opened() as t:
        alice = await t.connect(
            "/chat/x?q=é",
            identity=SimpleNamespace(id="alice"),
            headers={"X-Name": "Alice"},
            subprotocol=["unknown", "aquilia.v1.cbor"],
        )
        assert await alice.request("who") == ["alice", "aquilia.v1.cbor", "Alice", "é", "unset"]
        bob = await t.connect("/chat/x", query={"q": "a&b"})
        assert await bob.request("who") == [None, None, None, "a&b", "unset"]


async def test_an_identity_is_where_publications_find_it() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x", identity=SimpleNamespace(id="alice"))
        bob = await t.connect("/chat/x", identity=SimpleNamespace(id="bob"))
        await bob.request("to", "alice")

        assert (await alice.expect("whisper")).payload == "psst"
        await bob.expect_nothing("whisper")


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_an_error_ack_raises_its_fault(subprotocol: str | None) -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x", subprotocol=subprotocol or ())
        with pytest.raises(SocketFault) as raised:
            await alice.request("say", {"text": 7})

        assert raised.value.code == "WS_MESSAGE_INVALID"
        assert raised.value.retryable
        assert raised.value.details == [{"path": "$.text", "expected": "str", "got": "int"}]


async def test_a_client_answers_what_the_server_asks() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        for answer, told in (
            ({"data": "yes"}, "client said yes"),
            ({"error": {"code": "NO", "message": "never"}}, "client refused: NO: never"),
        ):
            asking = asyncio.create_task(alice.request("ask"))
            question = await alice.expect("sure")
            assert question.payload == {"n": 1}
            await alice.ack(question, **answer)
            assert await asking == told

        await alice.request("say", {"text": "hi"})
        with pytest.raises(ValueError, match="'said' wants no ack"):
            await alice.ack(await alice.expect("said"))


async def test_closed_tells_the_code_and_the_text_of_the_server() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.send("end")

        assert await alice.closed() == (4000, "enough")


async def test_disconnect_waits_until_the_server_is_done_with_the_connection() -> None:
    async with opened() as t:
        alice, bob = await t.connect("/chat/x"), await t.connect("/chat/x")
        await alice.send("wait")
        await alice.disconnect(4001, "bye")

        assert await alice.closed() == (4001, "bye")
        assert (await t.application.services.root.get(Mail)).sent == ["left 4001"]
        assert t.application.sockets.live()["connections"] == 1
        assert (await bob.expect("left")).payload == 4001


async def test_clients_leave_at_the_end_of_the_test() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.send("wait")

    assert await alice.closed() == (1001, "the test is over")
    assert t.application.sockets.live() == {"connections": 0, "namespaces": 0, "rooms": 0, "tasks": 0}


async def test_the_application_may_stop_before_its_clients_leave() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await t.application.shutdown()

        code, reason = await alice.closed()
        assert code == 1012
        assert 1000 <= json.loads(reason)["after"] <= 3000  # the next process has to boot


# Who is let in


async def refused(t: Any, path: str = "/chat/x", **options: Any) -> HandshakeRefused:
    with pytest.raises(HandshakeRefused) as raised:
        await t.connect(path, **options)
    return raised.value


async def test_a_refused_handshake_raises_its_code_status_and_message() -> None:
    async with opened() as t:
        error = await refused(t, query={"banned": 1})
        assert (error.code, error.status, error.message) == ("WS_FORBIDDEN", 403, "banned")
        assert str(error) == "WS_FORBIDDEN (HTTP 403): banned"

        error = await refused(t, headers={"origin": "https://evil.example"})
        assert (error.code, error.status) == ("WS_ORIGIN_NOT_ALLOWED", 403)
        assert (await refused(t, "/nowhere")).status == 404
        assert (await refused(t, subprotocol="unknown")).code == "WS_HANDSHAKE_FAILED"


async def test_a_v1_client_is_refused_by_a_close_code() -> None:
    async with opened() as t:
        error = await refused(t, query={"banned": 1}, subprotocol=V1[0])

    assert (error.code, error.status, error.close_code) == ("WS_FORBIDDEN", None, 4403)
    assert str(error) == "WS_FORBIDDEN (close code 4403)"


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_on_connect_runs_behind_the_handshake_and_may_end_it(subprotocol: str | None) -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x", headers={"x-late": "no"}, subprotocol=subprotocol or ())

        assert await alice.closed() == (4401, "WS_AUTH_REQUIRED: too late")


async def test_middleware_of_the_handshake_runs_and_sees_the_identity() -> None:
    async def members_only(ctx: RequestCtx, call_next: CallNext) -> Response:
        if ctx.identity is None:
            return Response("who are you?", 418)
        response = await call_next(ctx)
        response.headers["x-hello"] = ctx.identity.id
        return response

    async with opened(middleware=[members_only]) as t:
        error = await refused(t)
        assert (error.code, error.status, error.message) == ("HTTP 418", 418, "who are you?")
        alice = await t.connect("/chat/x", identity=SimpleNamespace(id="alice"))
        assert alice.headers["x-hello"] == "alice"


async def test_what_is_no_path_and_no_identity_is_refused_by_the_kit() -> None:
    async with opened() as t:
        with pytest.raises(ValueError, match=r"begins with a slash.*'ws://x/chat'"):
            await t.connect("ws://x/chat")
        with pytest.raises(TypeError, match="an identity has an `id`"):
            await t.connect("/chat/x", identity="alice")


# Waits are bounded, and tell what they saw


async def test_an_expectation_that_fails_shows_what_did_arrive() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.request("say", {"text": "hi"})

        with pytest.raises(AssertionError) as raised:
            await alice.expect("said.too", timeout=0.01)

    assert str(raised.value) == ("no 'said.too' within 0.01 s; there came\n  'said' in 'all': {'text': 'hi'}")


async def test_a_long_story_is_cut() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.request("many", 12)

        with pytest.raises(AssertionError, match=r"'number' in 'all': 9\n  and 2 more$"):
            await alice.expect("said", timeout=0.01)


async def test_what_was_not_looked_for_stays_for_the_next_wait() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.request("many", 2)
        await alice.request("say", {"text": "hi"})

        await alice.expect("said")
        assert [(await alice.expect("number")).payload for _ in range(2)] == [0, 1]
        await alice.expect_nothing()


async def test_expect_nothing_fails_for_what_is_there_and_for_what_comes() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        await alice.request("say", {"text": "hi"})
        await alice.expect_nothing("number")
        with pytest.raises(AssertionError, match=r"nothing was to come, but there came\n  'said' in"):
            await alice.expect_nothing()

        await alice.send("many", 1)
        with pytest.raises(AssertionError, match="nothing was to come of 'number'"):
            await alice.expect_nothing("number", within=3)


async def test_a_request_without_an_ack_fails_in_time() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        with pytest.raises(AssertionError, match=r"no ack of 'wait' within 0\.01 s; nothing else came"):
            await alice.request("wait", timeout=0.01)


async def test_a_wait_ends_with_the_connection() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        waiting = asyncio.create_task(alice.expect("said"))
        with pytest.raises(
            AssertionError, match="no ack of 'end' before the connection ended with 4000 enough"
        ):
            await alice.request("end")
        with pytest.raises(AssertionError, match="no 'said' before the connection ended"):
            await waiting
        with pytest.raises(AssertionError, match="cannot send 'say': the connection ended with 4000 enough"):
            await alice.send("say", {"text": "hi"})


async def test_closed_fails_where_the_connection_stays_open() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")
        with pytest.raises(AssertionError, match=r"the connection is still open within 0\.01 s"):
            await alice.closed(timeout=0.01)


async def test_a_handshake_that_is_not_answered_fails_in_time() -> None:
    async def sleepy(ctx: RequestCtx, call_next: CallNext) -> Response:
        await asyncio.Event().wait()
        return await call_next(ctx)

    async with opened(middleware=[sleepy]) as t:
        with pytest.raises(AssertionError, match=r"the handshake at /chat/x was not answered within 0\.01 s"):
            await t.connect("/chat/x", timeout=0.01)


async def test_a_disconnect_that_the_server_does_not_finish_fails_in_time() -> None:
    leaving = asyncio.Event()

    @Socket("/slow")
    class SlowSocket(SocketController):
        @OnDisconnect()
        async def leave(self, conn: Connection) -> None:
            await leaving.wait()

    async with sockets_test(SlowSocket) as t:
        alice = await t.connect("/slow")
        with pytest.raises(AssertionError, match=r"was not done with the connection within 0\.01 s"):
            await alice.disconnect(timeout=0.01)
        leaving.set()


# A client that is too slow


@pytest.mark.parametrize("subprotocol", [None, V1[0]])
async def test_a_client_that_does_not_read_meets_the_policy_of_its_outbox(subprotocol: str | None) -> None:
    async with opened(backpressure={"strategy": "drop_oldest", "buffer_size": 2}) as t:
        slow = await t.connect("/chat/x", subprotocol=subprotocol or ())
        quick = await t.connect("/chat/x")
        await slow.request("who")
        slow.stop_reading()
        await quick.request("say", {"text": "the wire takes one"})
        await quick.request("many", 5)
        await slow.expect_nothing(within=0.01)

        slow.read_on()

        assert (await slow.expect("said")).payload == {"text": "the wire takes one"}
        if subprotocol:
            assert (await slow.expect("gap", type="system")).payload == {
                "cause": "slow_consumer",
                "dropped": 3,
            }
        else:
            assert (await slow.expect("error")).payload["code"] == "WS_MESSAGES_DROPPED"
        assert [(await slow.expect("number")).payload for _ in range(2)] == [3, 4]
        await slow.request("who")


async def test_a_client_that_does_not_read_is_ended_where_the_policy_says_so() -> None:
    async with opened(backpressure={"strategy": "disconnect", "buffer_size": 2}) as t:
        slow, quick = await t.connect("/chat/x"), await t.connect("/chat/x")
        slow.stop_reading()
        await quick.request("many", 9)

        assert (await slow.closed()).code == 4531


async def test_the_server_stops_reading_a_client_whose_messages_it_cannot_handle() -> None:
    async with opened() as t:
        alice, bob = await t.connect("/chat/x"), await t.connect("/chat/x")
        await alice.send("wait")
        for number in range(300):
            await alice.send("many", number)

        assert 60 < await bob.request("heard") < 100


async def test_a_flood_beyond_the_inbox_is_read_when_there_is_room() -> None:
    async with opened() as t:
        alice = await t.connect("/chat/x")

        answers = await asyncio.gather(*(alice.request("say", {"text": str(n)}) for n in range(300)))

        assert answers == [str(n) for n in range(300)]


# What is tested


async def test_services_are_overridden_by_their_type() -> None:
    ours = Mail()
    async with opened(overrides={Mail: ours}) as t:
        alice = await t.connect("/chat/x")
        await alice.disconnect()

    assert ours.sent == ["left 1000"]


async def test_an_override_of_what_nothing_provides_is_refused() -> None:
    with pytest.raises(BootError, match="an override is given for Line, but nothing provides it"):
        async with opened(overrides={Line: Line("x")}):
            pass


async def test_settings_are_those_of_a_manifest() -> None:
    async with opened(max_connections=1, message_rate_limit=1) as t:
        alice = await t.connect("/chat/x")
        assert (await refused(t)).status == 503
        with pytest.raises(SocketFault, match="WS_RATE_LIMIT_EXCEEDED"):
            await asyncio.gather(*(alice.request("who") for _ in range(3)))
    with pytest.raises(BootError, match="max_conections"):
        async with opened(max_conections=1):
            pass


async def test_development_tells_the_nearest_names() -> None:
    for development in (False, True):
        async with opened(development=development) as t:
            alice = await t.connect("/chat/x")
            with pytest.raises(SocketFault) as raised:
                await alice.request("sya")
            assert ("'say'" in raised.value.message) is development


@pytest.mark.parametrize("form", ["controllers", "manifests", "registry"])
async def test_controllers_manifests_and_a_registry_can_be_tested(form: str) -> None:
    chat = AppManifest("chat", controllers=[ChatSocket], services=[mail])
    manifests = [chat, AppManifest("other", controllers=[OtherSocket])]
    subjects: list[Any] = {
        "controllers": [ChatSocket, OtherSocket],
        "manifests": manifests,
        "registry": [Registry.build(manifests)],
    }[form]
    options: dict[str, Any] = {"services": [mail]} if form == "controllers" else {}
    async with sockets_test(*subjects, **options) as t:
        alice, bob = await t.connect("/chat/x", identity=SimpleNamespace(id="a")), await t.connect("/other")
        assert (await alice.request("who"))[0] == "a"
        assert await bob.request("enter", "r") == "r"


@pytest.mark.parametrize(
    ("subjects", "options", "problem"),
    [
        ([], {}, "needs controllers, or manifests, or a registry"),
        ([OtherSocket, AppManifest("x")], {}, "takes controllers, or manifests, or one registry"),
        ([AppManifest("x")], {"max_rooms": 1, "services": [mail]}, "^services, max_rooms: only controllers"),
    ],
)
async def test_what_cannot_be_tested_is_refused(
    subjects: list[Any], options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(TypeError, match=problem):
        async with sockets_test(*subjects, **options):
            pass


async def test_an_error_of_a_handler_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    @Socket("/broken")
    class BrokenSocket(SocketController):
        @Event("break")
        async def break_(self, conn: Connection) -> None:
            raise ZeroDivisionError("by nought")

    async with sockets_test(BrokenSocket) as t:
        alice = await t.connect("/broken")
        with caplog.at_level(logging.ERROR), pytest.raises(SocketFault, match="WS_INTERNAL_ERROR"):
            await alice.request("break")

    assert "by nought" in caplog.text


@pytest.mark.parametrize("subprotocol", SUBPROTOCOLS)
async def test_what_was_sent_before_connect_returned_is_there(subprotocol: str | None) -> None:
    @Socket("/hall")
    class HallSocket(SocketController):
        @OnConnect()
        async def announce(self, conn: Connection) -> None:
            await self.broadcast("came", conn.id)

    async with sockets_test(HallSocket) as t:
        alice = await t.connect("/hall", subprotocol=subprotocol or ())
        assert (await alice.expect("came", timeout=0.5)).payload
