"""Who gets to the admin over HTTP, and who does not, whatever they try."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from admins import ADMIN, SECRET, Hall, admin_of, hall, seen
from fastapi import FastAPI
from wire import serving

from aquilia.aquilary import BootError
from aquilia.sockets import AquilaSockets
from aquilia.sockets.admin.orders import Connections, Kick
from aquilia.testing import sockets_test

OPERATIONS = ["nodes", "namespaces", "rooms", "connections", "openapi.json"]
ACTIONS = ["broadcast", "publish-room", "publish-identity", "kick", "purge-room", "drain"]
EVERYTHING = {"namespace": "/hall/a", "event": "notice", "payload": {"text": ""}}


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", SECRET)


async def test_nothing_is_served_unless_the_setting_says_so() -> None:
    async with serving(hall(admin=False)) as base, admin_of(base) as admin:
        for name in (*OPERATIONS, *ACTIONS):
            assert (await admin.get(f"/{name}")).status_code == 404


async def test_without_the_secret_nothing_is_told_of_anything() -> None:
    async with serving(hall()) as base, admin_of(base, secret=None) as admin:
        for name in OPERATIONS:
            response = await admin.get(f"/{name}")
            assert (response.status_code, response.json()["code"]) == (401, "WS_AUTH_REQUIRED")
            assert response.headers["www-authenticate"] == "Bearer"
        for name in ACTIONS:
            assert (await admin.post(f"/{name}", json=EVERYTHING)).status_code == 401
            assert (await admin.post(f"/{name}", content=b"{")).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {SECRET}x"},
        {"authorization": f"Bearer {SECRET[:-1]}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {SECRET} {SECRET}"},
        {"authorization": f"Basic {SECRET}"},
        {"cookie": f"authorization={SECRET}; secret={SECRET}"},
        {"x-authorization": f"Bearer {SECRET}", "proxy-authorization": f"Bearer {SECRET}"},
        {"authorization": "Bearer \u00e9\u00e9\u00e9".encode("latin-1")},
    ],
)
async def test_no_other_header_is_the_secret(headers: dict[str, Any]) -> None:
    async with serving(hall()) as base, admin_of(base, secret=None) as admin:
        assert (await admin.get("/nodes", headers=headers)).status_code == 401


async def test_two_headers_of_which_one_is_right_are_refused() -> None:
    twice = [("authorization", "Bearer wrong"), ("authorization", f"Bearer {SECRET}")]
    async with serving(hall()) as base, admin_of(base, secret=None) as admin:
        for headers in (twice, twice[::-1]):
            assert (await admin.get("/nodes", headers=headers)).status_code == 401


async def test_the_secret_is_taken_from_no_query() -> None:
    async with serving(hall()) as base, admin_of(base, secret=None) as admin:
        for name in ("authorization", "access_token", "token", "secret"):
            assert (await admin.get("/nodes", params={name: SECRET})).status_code == 401


async def test_wrong_secrets_are_looked_at_no_more_after_ten_and_again_later() -> None:
    async with sockets_test(Hall, admin=True) as t:
        transport = httpx.ASGITransport(t.application)
        right, wrong = ({"authorization": f"Bearer {word}"} for word in (SECRET, "guess"))
        async with httpx.AsyncClient(transport=transport, base_url=f"http://test{ADMIN}") as admin:
            for _ in range(10):
                assert (await admin.get("/nodes", headers=wrong)).status_code == 401
            for headers in (wrong, right):
                refused = await admin.get("/nodes", headers=headers)
                assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
                assert refused.json()["code"] == "WS_RATE_LIMIT_EXCEEDED"
            await t.clock.advance(5)
            assert (await admin.get("/nodes", headers=right)).status_code == 200


async def test_a_page_of_another_site_can_do_nothing() -> None:
    page = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    async with serving(hall()) as base, admin_of(base) as admin:
        asked = {
            **page,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }
        preflight = await admin.options("/kick", headers=asked)
        assert preflight.status_code == 405
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data", "text/plain", ""):
            form = {**page, "content-type": kind}
            sent = await admin.post("/kick", headers=form, content=json.dumps({"identity": "ann"}))
            assert sent.status_code == 415
        answers = [preflight, sent, await admin.get("/nodes", headers=page)]
        assert not any(name.startswith("access-control") for answer in answers for name in answer.headers)


async def test_a_host_that_is_not_served_is_refused_before_the_secret_is_looked_at() -> None:
    async with serving(hall(allowed_hosts=["example.com"])) as base, admin_of(base) as admin:
        assert (await admin.get("/nodes")).status_code == 400
        assert (await admin.get("/nodes", headers={"host": "example.com"})).status_code == 200


async def test_a_body_that_is_too_large_is_refused_announced_or_not() -> None:
    large = b'{"identity": "' + b"a" * (1 << 19) + b'"}'

    async def chunks() -> Any:
        for begin in range(0, len(large), 1 << 16):
            yield large[begin : begin + (1 << 16)]

    async with serving(hall()) as base, admin_of(base) as admin:
        for content in (large, chunks()):
            response = await admin.post(
                "/kick", content=content, headers={"content-type": "application/json"}
            )
            assert (response.status_code, response.json()["code"]) == (413, "HTTP_PAYLOAD_TOO_LARGE")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"[" * 100_000, b'{"identity": "\xff"}', b'"a"'),
        *(b'{"identity": 1e999}', b'{"identity": "a"} b', b'\xef\xbb\xbf{"identity": "a"}'),
    ],
)
async def test_what_is_no_order_is_refused(body: bytes) -> None:
    async with serving(hall()) as base, admin_of(base) as admin:
        response = await admin.post("/kick", content=body, headers={"content-type": "application/json"})
        assert response.status_code in (400, 422)


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "0"},
        {"limit": "1001"},
        {"limit": "x"},
        {"limt": "1"},
        {"after": "what?"},
        {"after": "gaE="},
        [("limit", "1"), ("limit", "2")],
    ],
)
async def test_a_query_that_is_none_is_refused(query: Any) -> None:
    async with serving(hall()) as base, admin_of(base) as admin:
        assert (await admin.get("/rooms", params=query)).status_code == 422


async def test_methods_are_those_of_the_description() -> None:
    async with serving(hall()) as base, admin_of(base) as admin:
        for name in OPERATIONS:
            refused = await admin.post(f"/{name}", json={})
            assert (refused.status_code, refused.headers["allow"]) == (405, "GET")
        for name in ACTIONS:
            refused = await admin.get(f"/{name}")
            assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
        assert (await admin.get("/other")).status_code == 404


async def test_answers_are_kept_by_nobody() -> None:
    async with serving(hall()) as base, admin_of(base) as admin:
        for response in (await admin.get("/nodes"), await admin.get("/rooms", params={"limit": 0})):
            assert response.headers["cache-control"] == "no-store"
            assert response.headers["x-content-type-options"] == "nosniff"


async def test_the_description_has_every_operation_with_its_fields() -> None:
    async with serving(hall(admin="/internal/admin")) as base:
        url = base.replace("ws://", "http://") + "/internal/admin"
        headers = {"authorization": f"Bearer {SECRET}"}
        async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as client:
            described = (await client.get("/openapi.json")).json()
    assert described["openapi"] == "3.1.0"
    assert described["security"] == [{"secret": []}]
    paths = described["paths"]
    expected = {*(name for name in OPERATIONS if name != "openapi.json"), *ACTIONS}
    assert set(paths) == {f"/internal/admin/{name}" for name in expected}
    asked = {each["name"] for each in paths["/internal/admin/connections"]["get"]["parameters"]}
    assert asked == set(Connections.__struct_fields__)
    body = paths["/internal/admin/kick"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    schemas = described["components"]["schemas"]
    assert set(schemas[body["$ref"].rpartition("/")[2]]["properties"]) == set(Kick.__struct_fields__)
    text = json.dumps(described)
    assert all(f"#/components/schemas/{name}" in text for name in ("Report", "NodesPage", "Fault"))


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ("", "nobody could be an admin: set AQ_ADMIN_SECRET"),
        ("short", "has 5 characters, and 32 are needed"),
        ("a secret with spaces, of 32 characters", "only ASCII without spaces"),
        ("\u00e9" * 40, "only ASCII without spaces"),
    ],
)
async def test_a_secret_that_is_none_is_told_at_the_start(
    monkeypatch: pytest.MonkeyPatch, said: str, problem: str
) -> None:
    monkeypatch.setenv("AQ_ADMIN_SECRET", said)
    with pytest.raises(BootError) as raised:
        await hall().startup()
    assert problem in str(raised.value)
    assert not said or said not in str(raised.value)


async def test_the_secret_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}2\n")
    monkeypatch.setenv("AQ_ADMIN_SECRET_FILE", str(file))
    with pytest.raises(BootError, match="both set"):
        await hall().startup()
    monkeypatch.delenv("AQ_ADMIN_SECRET")
    async with serving(hall()) as base, admin_of(base, f"{SECRET}2") as admin:
        assert len((await seen(admin, "nodes"))["items"]) == 1
    monkeypatch.setenv("AQ_ADMIN_SECRET_FILE", str(tmp_path / "none"))
    with pytest.raises(BootError, match="cannot be read"):
        await hall().startup()


async def test_it_is_served_where_the_sockets_are_mounted() -> None:
    sockets = hall()
    app = FastAPI(lifespan=sockets.lifespan)
    app.mount("/ws", sockets)
    async with serving(app) as base, admin_of(f"{base}/ws") as admin:
        assert len((await seen(admin, "nodes"))["items"]) == 1


async def test_it_starts_the_sockets_where_no_lifespan_was_run() -> None:
    async with serving(hall(), lifespan="off") as base, admin_of(base) as admin:
        answers = await asyncio.gather(*(seen(admin, "nodes") for _ in range(3)))
        assert all(len(answer["items"]) == 1 for answer in answers)


def test_another_endpoint_at_the_same_path_is_told_at_boot() -> None:
    with pytest.raises(BootError, match="both served at /_aquilia/admin/nodes"):
        AquilaSockets.from_controllers([Hall], admin=True, health=f"{ADMIN}/nodes")
