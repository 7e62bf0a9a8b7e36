"""The path within a mount, the bound on a body, and the reply on its way."""

import pytest
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect

from aquilia.exchange import Reply, bounded, route_path
from aquilia.faults import Fault


@pytest.mark.parametrize(
    ("path", "root", "route"),
    [
        ("/a", "", "/a"),
        ("/api/a", "/api", "/a"),
        ("/api/a", "/api/", "/a"),
        ("/api/", "/api", "/"),
        ("/api", "/api", "/"),
        ("/apiary", "/api", "/apiary"),
        ("/a", "/api", "/a"),
    ],
)
def test_the_prefix_of_a_mount_is_left_out(path, root, route):
    assert route_path({"path": path, "root_path": root}) == route


def test_there_may_be_no_mount():
    assert route_path({"path": "/a"}) == "/a"


def body_of(*chunks: bytes):
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive, messages


async def test_a_body_within_the_bound_passes():
    receive, _ = body_of(b"ab", b"cd")
    read = bounded(receive, Headers({"content-length": "4"}), 4)
    assert [(await read()).get("body") for _ in range(3)] == [b"ab", b"cd", None]


async def test_a_body_is_refused_where_it_passes_the_bound():
    receive, _ = body_of(b"ab", b"cd")
    read = bounded(receive, Headers(), 3)
    await read()
    with pytest.raises(Fault) as caught:
        await read()
    assert (caught.value.code, caught.value.status) == ("HTTP_PAYLOAD_TOO_LARGE", 413)


async def test_an_announced_size_is_refused_before_anything_is_read():
    receive, messages = body_of(b"ab")
    with pytest.raises(Fault):
        await bounded(receive, Headers({"content-length": "4"}), 3)()
    assert len(messages) == 1


@pytest.mark.parametrize("size", ["", "-1", "x", "²"])
async def test_a_size_that_is_none_announces_nothing(size):
    receive, _ = body_of(b"ab")
    read = bounded(receive, Headers(raw=[(b"content-length", size.encode("latin-1"))]), 3)
    assert (await read())["body"] == b"ab"


START = {"type": "http.response.start", "status": 200, "headers": []}


async def test_a_reply_knows_how_far_it_has_got():
    sent = []

    async def send(message):
        sent.append(message)

    reply = Reply(send, head=False)
    seen = [(reply.started, reply.finished)]
    for message in (
        START,
        {"type": "http.response.body", "body": b"a", "more_body": True},
        {"type": "http.response.body", "body": b"b"},
    ):
        await reply(message)
        seen.append((reply.started, reply.finished))
    assert seen == [(False, False), (True, False), (True, False), (True, True)]
    assert [message.get("body") for message in sent] == [None, b"a", b"b"]


@pytest.mark.parametrize("kind", ["http.response.pathsend", "http.response.zerocopysend"])
async def test_a_file_that_the_server_sends_is_a_body_too(kind):
    async def send(message): ...

    reply = Reply(send, head=False)
    await reply(START)
    await reply({"type": kind})
    assert reply.finished


async def test_early_hints_do_not_begin_the_response():
    async def send(message): ...

    reply = Reply(send, head=False)
    await reply({"type": "http.response.early_hint", "links": []})
    assert not reply.started


async def test_the_reply_to_a_head_has_no_body():
    sent = []

    async def send(message):
        sent.append(message)

    reply = Reply(send, head=True)
    await reply(START)
    await reply({"type": "http.response.body", "body": b"a", "more_body": True})
    assert sent == [START, {"type": "http.response.body", "body": b"", "more_body": True}]


async def test_a_server_that_cannot_send_has_lost_its_client():
    async def send(message):
        raise BrokenPipeError

    with pytest.raises(ClientDisconnect):
        await Reply(send, head=False)(START)
