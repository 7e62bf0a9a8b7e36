"""Metrics: where they are served, in which forms, and which settings are refused."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from hall import PATTERN, Hall, Scrape, fetched, hall, scraped
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette
from starlette.routing import Mount, Route
from wire import Client, serving

from aquilia import GET, AppManifest, Controller
from aquilia.aquilary import BootError, Registry
from aquilia.asgi import Application
from aquilia.sockets import (
    AquilaSockets,
    MetricsMiddleware,
    Socket,
    SocketController,
)
from aquilia.sockets.metrics.families import FAMILIES
from aquilia.sockets.metrics.recorder import Counters

# Where it is served


async def test_without_the_setting_nothing_is_kept_or_served() -> None:
    @Socket(PATTERN)
    class Plain(SocketController): ...

    sockets = AquilaSockets.from_controllers([Plain])
    assert sockets.metrics is None
    assert isinstance(sockets.recorder, Counters)
    async with serving(sockets) as base:
        assert (await fetched(base)).status_code == 404


async def test_a_middleware_measures_without_the_setting_but_only_the_host_can_serve_it() -> None:
    sockets = AquilaSockets.from_controllers([Hall])
    app = Starlette(
        routes=[Route("/own", sockets.metrics), Mount("/", sockets)],  # type: ignore[arg-type]
        lifespan=sockets.lifespan,
    )
    async with serving(app) as base, Client.connect(f"{base}/hall/a") as ann:
        await ann.request("say", "hello")
        assert (await fetched(base)).status_code == 404
        figures = await scraped(base, "/own")
    assert figures.get_one("aquilia_span_seconds_count", event="say", span="handler") == 1


@pytest.mark.parametrize(
    ("setting", "path"), [(True, "/metrics"), ("/internal/figures", "/internal/figures")]
)
async def test_an_application_serves_them_beside_its_own_routes(setting: Any, path: str) -> None:
    class Pages(Controller):
        @GET("/")
        async def page(self) -> str:
            return "the page"

    manifests = [
        AppManifest("hall", controllers=[Hall], websockets={"metrics": setting}),
        AppManifest("pages", controllers=[Pages]),
    ]
    async with serving(Application(Registry.build(manifests))) as base:
        assert (await fetched(base, "/")).text == "the page"
        assert (await scraped(base, path)).get_one("aquilia_connections") == 0
        async with httpx.AsyncClient(base_url=base.replace("ws", "http", 1), trust_env=False) as http:
            refused = await http.post(path)
            head = await http.head(path)
    assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")
    assert (head.status_code, head.content) == (200, b"")


async def test_a_mount_has_them_below_its_prefix() -> None:
    sockets = hall()
    app = Starlette(routes=[Mount("/live", sockets)], lifespan=sockets.lifespan)
    async with serving(app) as base, Client.connect(f"{base}/live/hall/a"):
        assert (await scraped(base, "/live/metrics")).get_one("aquilia_connections") == 1


def test_two_manifests_that_disagree_are_refused() -> None:
    manifests = [
        AppManifest("one", controllers=[Hall], websockets={"metrics": True}),
        AppManifest("two", websockets={"metrics": "/figures"}),
    ]
    with pytest.raises(BootError, match="metrics is '/figures' here, and '/metrics' in another manifest"):
        Application(Registry.build(manifests))


def test_a_page_at_the_same_path_is_refused() -> None:
    class Pages(Controller):
        @GET("/metrics")
        async def page(self) -> str:
            return "hidden"

    manifest = AppManifest("pages", controllers=[Pages], websockets={"metrics": True})
    with pytest.raises(BootError, match="/metrics is where the setting metrics serves"):
        Application(Registry.build([manifest]))


@pytest.mark.parametrize("value", [None, 1, "metrics", "/", "/a/", "//a", "/a b", "/a?b", "/:name", ["/a"]])
def test_a_value_that_is_no_path_is_refused(value: Any) -> None:
    with pytest.raises(
        BootError, match="metrics: True, False, a path like '/internal/metrics', or 'collect'"
    ):
        AquilaSockets.from_controllers([Hall], metrics=value)


def test_two_middlewares_that_would_count_twice_are_refused_and_two_spans_are_not() -> None:
    with pytest.raises(BootError, match=r"event 'say': middleware: 2 of MetricsMiddleware\('handler'\)"):
        AquilaSockets.from_controllers([Hall], message_middleware=[MetricsMiddleware()])
    AquilaSockets.from_controllers([Hall], message_middleware=[MetricsMiddleware("whole")])


@pytest.mark.parametrize("span", ["", "x" * 65, None, 3])
def test_a_span_is_a_short_string(span: Any) -> None:
    with pytest.raises(ValueError, match="MetricsMiddleware: span: a string of 1 to 64 characters"):
        MetricsMiddleware(span)


def test_a_recorder_of_ones_own_and_metrics_exclude_each_other() -> None:
    registry = Registry.build([AppManifest("hall", controllers=[Hall], websockets={"metrics": True})])
    with pytest.raises(ValueError, match="leave one of the two out"):
        AquilaSockets(registry, recorder=Counters())


# The exposition


async def test_the_metrics_of_the_application_are_served_too() -> None:
    orders = Counter("orders", "Of the application.")
    try:
        orders.inc(3)
        async with serving(hall()) as base:
            assert (await scraped(base))["orders_total", frozenset()] == 3
    finally:
        REGISTRY.unregister(orders)


async def test_a_registry_of_the_hosts_own_can_have_them() -> None:
    sockets = hall(metrics="collect")
    registry = CollectorRegistry()
    registry.register(sockets.metrics)  # type: ignore[arg-type]
    async with serving(sockets) as base, Client.connect(f"{base}/hall/a"):
        assert (await fetched(base)).status_code == 404
        text = generate_latest(registry).decode()
    assert Scrape.of(text).get_one("aquilia_connections") == 1


async def test_a_scraper_chooses_form_compression_and_names() -> None:
    async with serving(hall()) as base:
        plain = await fetched(base, headers={"accept-encoding": "identity"})
        packed = await fetched(base, headers={"accept-encoding": "gzip"})
        open_metrics = await fetched(base, headers={"accept": "application/openmetrics-text; version=1.0.0"})
        few = await fetched(base, "/metrics?name[]=aquilia_rooms")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert len(packed.text) > int(packed.headers["content-length"])
    assert open_metrics.text.endswith("# EOF\n")
    assert {name for name, _ in Scrape.of(few.text)} == {"aquilia_rooms"}


async def test_every_family_is_told_with_its_type_and_meaning() -> None:
    async with serving(hall()) as base:
        text = (await fetched(base)).text
    told = {family.name: family for family in text_string_to_metric_families(text)}
    for family in FAMILIES.values():
        metric = told[family.name.removesuffix("_total")]
        assert (metric.type, metric.documentation) == (family.type, family.help)
