"""The plan of a process with several manifests: what belongs to each of them, and what to all."""

from __future__ import annotations

from typing import Any

import pytest
from visit import Visit

from aquilia import GET, AppManifest, Controller
from aquilia.aquilary import Problem, Registry
from aquilia.sockets import AquilaSockets, Socket, SocketController
from aquilia.sockets.plan import SocketPlan


@Socket("/one")
class One(SocketController):
    pass


@Socket("/two", max_message_size=7)
class Two(SocketController):
    pass


class Page(Controller):
    @GET("/page")
    async def page(self) -> str:
        return ""


def plan_of(*manifests: AppManifest) -> tuple[SocketPlan, list[Problem]]:
    problems: list[Problem] = []
    return SocketPlan.read(Registry.build(manifests), problems), problems


def manifest(name: str, *controllers: type, **websockets: Any) -> AppManifest:
    return AppManifest(name, controllers=controllers, websockets=websockets)


def test_a_manifest_sets_what_holds_for_its_own_controllers() -> None:
    plan, problems = plan_of(
        manifest("a", One, max_message_size=100, message_rate_limit=5), manifest("b", Two, Page)
    )
    assert problems == []
    assert [(app.manifest.name, contract.controller) for app, contract in plan.contracts] == [
        ("a", One),
        ("b", Two),
    ]
    one, two = (contract.settings for _, contract in plan.contracts)
    assert (one.max_message_size, one.message_rate_limit) == (100, 5)
    assert (two.max_message_size, two.message_rate_limit) == (7, None)


def test_what_holds_for_the_process_may_be_said_in_any_manifest() -> None:
    plan, problems = plan_of(
        manifest("a", heartbeat=10), manifest("b"), manifest("c", max_namespaces=5, heartbeat=10.0)
    )
    assert problems == []
    assert (plan.node.heartbeat, plan.node.max_namespaces) == (10, 5)
    assert plan.node.handshake_timeout == 10


@pytest.mark.parametrize(
    ("key", "one", "other"),
    [
        ("heartbeat", 10, 20),
        ("heartbeat", 25, 20),  # the default, but it was said
        ("heartbeat", 20, 25),
        ("max_connections", 10_000, 5),
        ("allowed_hosts", ["a.example"], ["b.example"]),
    ],
)
def test_manifests_that_disagree_on_the_process_are_refused(key: str, one: Any, other: Any) -> None:
    _, (problem,) = plan_of(manifest("a", **{key: one}), manifest("b", **{key: other}))
    assert problem.where == "manifest 'b'"
    assert problem.message.startswith(f"websockets: {key} is ")
    assert problem.message.endswith(" in another manifest")


def test_a_setting_that_is_wrong_is_told_once_and_disagrees_with_nothing() -> None:
    _, problems = plan_of(manifest("a", heartbeat=0), manifest("b", heartbeat=20))
    assert [problem.message for problem in problems] == [
        "websockets: heartbeat: a number above 0 is needed, not 0"
    ]


def test_paths_of_different_manifests_must_not_conflict_either() -> None:
    @Socket("/:anything")
    class Any_(SocketController):
        pass

    @Socket("/:whatever")
    class Whatever(SocketController):
        pass

    _, (problem,) = plan_of(manifest("a", One, Any_), manifest("b", Whatever))
    assert "/:anything" in problem.message
    assert "/:whatever" in problem.message


@pytest.mark.parametrize(
    ("path", "origin", "status"),
    [
        ("/one", "https://one.example", 101),
        ("/one", "https://two.example", 403),
        ("/two", "https://two.example", 101),
        ("/two", "https://one.example", 403),
        ("/nowhere", "https://one.example", 404),
        ("/nowhere", "https://two.example", 404),
        ("/nowhere", "https://three.example", 403),
        ("/nowhere", "", 404),
    ],
)
async def test_a_page_that_may_connect_somewhere_is_told_where_nothing_is(
    path: str, origin: str, status: int
) -> None:
    app = AquilaSockets(
        Registry.build(
            [
                manifest("a", One, allowed_origins=["https://one.example"]),
                manifest("b", Two, allowed_origins=["https://two.example"]),
            ]
        )
    )
    async with Visit(app, path, headers={"origin": origin} if origin else {}) as visit:
        assert visit.status == status
    await app.shutdown()


async def test_without_a_controller_only_pages_of_our_own_are_told_that_nothing_is_there() -> None:
    app = AquilaSockets(Registry.build([]))
    for origin, status in {"http://shop.example": 404, "http://other.example": 403}.items():
        async with Visit(app, "/", headers={"origin": origin}) as visit:
            assert visit.status == status
    await app.shutdown()
