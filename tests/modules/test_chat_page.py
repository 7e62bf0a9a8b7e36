"""The page of the chat example in a real browser, against a real `aq serve`."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from browsing import EXAMPLE, TIMEOUT, Server, Tab, Wire, under_strict_policy
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect
from ports import reserved_port

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: sudo make system-deps"),
]
expect.set_options(timeout=TIMEOUT * 1000)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """The example alone in a workspace, as somebody would copy it, with the strictest policy for its page."""
    workspace = tmp_path_factory.mktemp("workspace")
    for name in ("manifest.py", "controllers.py", "client.html"):
        shutil.copy(EXAMPLE / name, workspace)
    page = workspace / "client.html"
    page.write_text(under_strict_policy(page.read_text("utf-8")), "utf-8")
    with reserved_port() as port:
        server = Server(workspace, port)
        await server.compile()
        try:
            await server.start()
            yield server
        finally:
            await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


OpenTab = Callable[..., Awaitable[Tab]]


@pytest_asyncio.fixture(loop_scope="module")
async def open_tab(
    server: Server, browser: Browser, request: pytest.FixtureRequest
) -> AsyncIterator[OpenTab]:
    """Opens the page for a person, in a namespace of this test. Its errors fail the test, in scripts and policy."""
    contexts: list[BrowserContext] = []
    errors: list[str] = []

    async def open_tab(
        name: str | None,
        prepare: Callable[[Page], Awaitable[Any]] | None = None,
        team: str = "",
        **options: Any,
    ) -> Tab:
        context = await browser.new_context(**options)
        contexts.append(context)
        page = await context.new_page()
        page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
        page.on("console", lambda said: errors.append(said.text) if "Security Policy" in said.text else None)
        if prepare is not None:
            await prepare(page)
        await page.goto(f"{server.url}?team={team or request.node.name}")
        tab = Tab(page)
        if name is not None:
            await tab.enter(name)
        return tab

    yield open_tab
    for context in contexts:
        await context.close()
    assert errors == []


async def test_what_one_types_appears_at_the_other(open_tab: OpenTab) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await expect(ada.members).to_have_text(["Ada", "Bob"])
    await ada.say("hello")
    await ada.message.fill("two")
    await ada.message.press("Shift+Enter")
    await ada.message.press_sequentially("lines")
    await ada.page.get_by_role("button", name="Send").click()
    await bob.say("hi Ada")
    for tab in (ada, bob):
        await expect(tab.bubbles).to_have_text(["hello", "two\nlines", "hi Ada"])
    await expect(ada.own).to_have_count(2)
    await expect(ada.page.locator(".unsent")).to_have_count(0)
    # Messages of one author follow each other under one name.
    await expect(bob.page.locator("#log .first .head bdi")).to_have_text(["Ada", "Bob"])
    await expect(bob.page.locator("#log time").first).to_have_text(re.compile(r"\d\d:\d\d"))
    await expect(ada.message).to_have_value("")


async def test_the_newest_message_is_in_view_unless_one_reads_older_ones(open_tab: OpenTab) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await expect(bob.members).to_have_count(2)
    for number in range(4):
        await ada.say(f"{number} " + "line\n" * 12 + "end")
    await expect(bob.bubbles).to_have_count(4)
    await expect(bob.bubbles.last).to_be_in_viewport(ratio=0.9)
    await bob.page.locator("#log").hover()
    await bob.page.mouse.wheel(0, -5_000)
    await expect(bob.bubbles.first).to_be_in_viewport()
    await ada.say("and one more")
    await expect(bob.bubbles).to_have_count(5)
    await expect(bob.bubbles.first).to_be_in_viewport()
    await bob.page.get_by_role("button", name="New messages").click()
    await expect(bob.bubbles.last).to_be_in_viewport(ratio=1)
    await expect(bob.page.get_by_role("button", name="New messages")).not_to_be_visible()


async def test_the_others_see_who_is_typing_until_it_is_sent_or_taken_back(open_tab: OpenTab) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await ada.message.press_sequentially("hel")
    await expect(bob.typing).to_have_text("Ada is typing…")
    await bob.message.press_sequentially("no")
    await expect(ada.typing).to_have_text("Bob is typing…")
    # Sooner than the pause after which nobody counts as typing.
    await ada.message.press("Enter")
    await expect(bob.typing).to_have_text("", timeout=3_000)
    await bob.message.fill("")
    await expect(ada.typing).to_have_text("", timeout=3_000)


async def test_the_list_of_people_follows_who_comes_renames_leaves_and_closes_the_tab(
    open_tab: OpenTab,
) -> None:
    ada, bob, eve = await open_tab("Ada"), await open_tab("Bob"), await open_tab("Eve")
    await expect(ada.members).to_have_text(["Ada", "Bob", "Eve"])
    await expect(ada.page.locator("#members .member", has_text="you")).to_have_text(re.compile("Ada"))
    await bob.page.get_by_role("button", name="Rename").click()
    await bob.enter("Robert")
    await expect(ada.members).to_have_text(["Ada", "Eve", "Robert"])
    await eve.message.press_sequentially("…")
    await expect(ada.typing).to_have_text("Eve is typing…")
    await eve.page.close()
    await expect(ada.members).to_have_text(["Ada", "Robert"])
    await expect(ada.typing).to_have_text("")
    await bob.page.get_by_role("button", name="Leave general").click()
    await expect(ada.members).to_have_text(["Ada"])
    await expect(bob.members).to_have_count(0)
    await expect(bob.message).to_be_disabled()


async def test_rooms_are_apart_and_tell_of_unread_messages(open_tab: OpenTab) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await ada.open_room(" #Design Talk ")
    await expect(ada.page.get_by_role("heading", level=1)).to_have_text("#design-talk")
    await expect(bob.rooms).to_have_text(["design-talk", "general"])
    await expect(bob.room("design-talk")).to_have_text("design-talkjoin")
    await ada.say("only for designers")
    await bob.say("anybody there?")
    await expect(bob.bubbles).to_have_text(["anybody there?"])
    await expect(ada.bubbles).to_have_text(["only for designers"])
    await expect(ada.room("general").locator(".badge")).to_have_text("1")
    await expect(ada.page).to_have_title("(1) #design-talk · Aquilia chat")
    await ada.message.fill("half a thought")
    await ada.room("general").get_by_role("button").first.click()
    await expect(ada.message).to_have_value("")
    await expect(ada.bubbles).to_have_text(["anybody there?"])
    await expect(ada.room("general").locator(".badge")).to_have_text("")
    await bob.room("design-talk").get_by_role("button").first.click()
    await expect(bob.members).to_have_text(["Ada", "Bob"])
    await expect(bob.bubbles).to_have_count(0)
    await ada.room("design-talk").get_by_role("button").first.click()
    await expect(ada.message).to_have_value("half a thought")
    await ada.page.get_by_role("button", name="Leave design-talk").click()
    await expect(bob.members).to_have_text(["Bob"])
    await bob.page.get_by_role("button", name="Leave design-talk").click()
    for tab in (ada, bob):
        await expect(tab.rooms).to_have_text(["general"])


async def test_a_tab_keeps_its_name_and_its_rooms_when_it_is_loaded_again(open_tab: OpenTab) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await ada.open_room("design")
    await ada.page.reload()
    await expect(ada.status).to_have_text("Connected")
    await expect(ada.page.get_by_role("heading", level=1)).to_have_text("#design")
    await expect(ada.rooms).to_have_text(["design", "general"])
    await expect(bob.members).to_have_text(["Ada", "Bob"])
    # Another tab of the same browser is another person.
    other = Tab(await ada.page.context.new_page())
    await other.page.goto(ada.page.url)
    await other.enter("Eve")
    await expect(other.members).to_have_text(["Ada", "Eve"])


async def test_what_looks_like_html_is_shown_as_it_was_typed(open_tab: OpenTab) -> None:
    evil = "<img src=x onerror=alert(1)>"
    ada, bob = await open_tab(evil), await open_tab("Bob")
    dialogs: list[str] = []
    bob.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    await ada.say(f"<b>bold</b> {evil} <script>alert(2)</script>")
    await ada.open_room("<img/src=x/onerror=alert(3)>")
    await expect(bob.bubbles).to_have_text([f"<b>bold</b> {evil} <script>alert(2)</script>"])
    await expect(bob.page.locator("#log .head bdi")).to_have_text([evil])
    await expect(bob.rooms).to_have_text(["<img/src=x/onerror=alert(3)>", "general"])
    await bob.room("<img/src=x/onerror=alert(3)>").get_by_role("button").first.click()
    await expect(bob.members).to_have_text([evil, "Bob"])
    await ada.message.press_sequentially("x")
    await expect(bob.typing).to_have_text(f"{evil} is typing…")
    assert await bob.page.locator("img, b, main script").count() == 0
    assert dialogs == []


async def test_the_page_comes_back_when_the_server_does(open_tab: OpenTab, server: Server) -> None:
    ada, bob = await open_tab("Ada"), await open_tab("Bob")
    await ada.open_room("design")
    await ada.room("general").get_by_role("button").first.click()
    await ada.say("before")
    await expect(bob.bubbles).to_have_text(["before"])
    await server.stop()
    try:
        for tab in (ada, bob):
            await expect(tab.status).to_have_text(re.compile(r"Reconnecting in \d+ s…|Connecting…"))
        await ada.say("meanwhile")
        await ada.say("and more")
        await expect(ada.page.locator(".unsent .state")).to_have_text(["sending…", "sending…"])
    finally:
        await server.start()
    for tab in (ada, bob):
        await expect(tab.status).to_have_text("Connected")
        await expect(tab.members).to_have_text(["Ada", "Bob"])
    await expect(ada.page.locator(".unsent")).to_have_count(0)
    await bob.say("after")
    await expect(ada.bubbles).to_have_text(["before", "meanwhile", "and more", "after"])
    # Bob may have come back after Ada had sent what waited.
    await expect(bob.bubbles.last).to_have_text("after")
    await expect(bob.page.locator(".note")).to_have_text(re.compile("Back again"))
    await expect(bob.room("design")).to_have_text("designjoin")


async def test_somebody_who_pauses_is_not_typing_any_more(open_tab: OpenTab) -> None:
    wire = Wire()
    bob = await open_tab("Bob", lambda page: page.clock.install())
    ada = await open_tab("Ada", wire.install_with_clock)
    await ada.message.press_sequentially("hel")
    await expect(bob.typing).to_have_text("Ada is typing…")
    await ada.page.clock.run_for(4_000)
    await expect(bob.typing).to_have_text("", timeout=3_000)
    # Who hears nothing more of it, because a frame was lost, does not wait for ever either.
    wire.keep_up = lambda frame: frame["event"] == "typing.stop"
    await ada.message.press_sequentially("lo")
    await expect(bob.typing).to_have_text("Ada is typing…")
    await ada.message.fill("")
    await bob.page.clock.run_for(6_000)
    await expect(bob.typing).to_have_text("")


async def test_messages_have_the_order_of_the_room_even_if_an_ack_is_late(open_tab: OpenTab) -> None:
    wire = Wire()
    bob, ada = await open_tab("Bob"), await open_tab("Ada", wire.install)
    await expect(ada.members).to_have_count(2)
    wire.keep_down = lambda frame: frame["type"] == "ack"
    await ada.say("one")
    await expect(bob.bubbles).to_have_text(["one"])
    await ada.say("three")
    await bob.say("two")
    await expect(ada.bubbles).to_have_text(
        ["one", "two", "three"], timeout=5_000
    )  # before she gives up on the ack
    late = next(frame["id"] for frame in wire.sent if frame["event"] == "message.send")
    wire.keep_down = lambda frame: False
    wire.route.send(json.dumps({"type": "ack", "id": late, "payload": {"status": "ok"}}))
    await expect(bob.bubbles).to_have_text(["one", "two", "three"])
    await expect(ada.page.locator(".unsent")).to_have_count(0)
    await expect(ada.bubbles).to_have_text(["one", "two", "three"])


async def test_a_server_that_wants_an_ack_gets_one(open_tab: OpenTab) -> None:
    wire = Wire()
    await open_tab("Ada", wire.install)
    wire.route.send(json.dumps({"type": "event", "event": "question", "id": "s1", "ack": True}))
    async with asyncio.timeout(TIMEOUT):
        while {"type": "ack", "id": "s1", "payload": {"status": "ok"}} not in wire.sent:
            await asyncio.sleep(0.01)


async def test_a_message_whose_ack_got_lost_is_sent_again_and_seen_once(open_tab: OpenTab) -> None:
    wire = Wire()
    bob, ada = await open_tab("Bob"), await open_tab("Ada", wire.install)
    wire.keep_down = lambda frame: frame.get("event") == "message.receive" or frame["type"] == "ack"
    await ada.say("only once")
    await expect(bob.bubbles).to_have_text(["only once"])
    await expect(ada.page.locator(".unsent .state")).to_have_text(["sending…"])
    wire.keep_down = lambda frame: False
    await wire.route.close(code=1012)
    await expect(ada.page.locator(".unsent")).to_have_count(0)
    await ada.say("and this")
    for tab in (ada, bob):
        await expect(tab.bubbles).to_have_text(["only once", "and this"])
    assert [frame["payload"]["text"] for frame in wire.sent if frame["event"] == "message.send"] == [
        "only once",
        "only once",
        "and this",
    ]


async def test_a_message_that_nobody_answers_can_be_tried_again_or_discarded(open_tab: OpenTab) -> None:
    wire = Wire()
    bob, ada = await open_tab("Bob"), await open_tab("Ada", wire.install_with_clock)
    wire.keep_up = lambda frame: frame["event"] == "message.send"
    for text in ("first", "second"):
        await ada.say(text)
        await ada.page.clock.run_for(10_000)
        await expect(ada.page.locator(".failed", has_text=text)).to_contain_text("Not sent: no answer.")
        await expect(ada.page.get_by_role("button", name="Try again").last).to_be_in_viewport(ratio=1)
    wire.keep_up = lambda frame: False
    failed = ada.page.locator(".failed")
    await failed.filter(has_text="first").get_by_role("button", name="Discard").click()
    await failed.filter(has_text="second").get_by_role("button", name="Try again").click()
    await expect(bob.bubbles).to_have_text(["second"])
    await expect(ada.bubbles).to_have_text(["second"])
    await expect(failed).to_have_count(0)


async def test_a_link_that_went_dead_in_silence_is_noticed(open_tab: OpenTab) -> None:
    wire = Wire()
    ada = await open_tab("Ada", wire.install_with_clock)
    await wire.has_received("ack")
    await ada.page.clock.run_for(40_000)  # a link that is only idle is asked, and answers
    await wire.has_received("pong")
    await expect(ada.status).to_have_text("Connected")
    wire.keep_down = lambda frame: True
    await ada.page.clock.run_for(43_000)
    await expect(ada.status).not_to_have_text("Connected")
    wire.keep_down = lambda frame: False
    await ada.page.clock.run_for(11_000)
    await expect(ada.status).to_have_text("Connected")
    assert wire.opened > 1


async def test_a_close_that_is_final_is_not_followed_by_another_try(open_tab: OpenTab) -> None:
    wire = Wire()
    ada = await open_tab("Ada", wire.install_with_clock)
    await wire.route.close(code=4409)
    await expect(ada.status).to_have_text("You were removed · Try again")
    await ada.page.clock.run_for(60_000)
    assert wire.opened == 1
    await ada.status.click()
    await expect(ada.status).to_have_text("Connected")
    await expect(ada.members).to_have_text(["Ada"])


async def test_a_server_that_says_when_to_come_back_is_heeded(open_tab: OpenTab) -> None:
    wire = Wire()
    ada = await open_tab("Ada", wire.install)
    goaway = {"type": "system", "event": "goaway", "payload": {"reason": "drain", "reconnect_in": 90_000}}
    wire.route.send(json.dumps(goaway))
    await wire.route.close(code=1012)
    await expect(ada.status).to_have_text(re.compile(r"Reconnecting in (90|8\d) s…"))
    await ada.status.click()
    await expect(ada.status).to_have_text("Connected")
    await wire.route.close(code=4529, reason='{"after": 60000}')
    await expect(ada.status).to_have_text(re.compile(r"Reconnecting in (60|5\d) s…"))


async def test_the_socket_is_looked_for_where_the_page_is(open_tab: OpenTab, server: Server) -> None:
    async def prepare(page: Page) -> None:
        html = (EXAMPLE / "client.html").read_text("utf-8")
        await page.route("**/talk*", lambda route: route.fulfill(body=html, content_type="text/html"))
        await page.route("**/talk/*", lambda route: route.fulfill(body=html, content_type="text/html"))
        await page.route_web_socket(re.compile("."), lambda socket: sought.append(socket.url))

    sought: list[str] = []
    tab = await open_tab(None, prepare)
    for path in ("talk", "talk/"):
        await tab.page.goto(f"{server.url}{path}?team=a%20b")
        await tab.page.keyboard.press("Escape")  # nobody has to tell a name
        await expect(tab.page.locator("#my-name")).to_have_text(re.compile(r"Guest \d+"))
    assert sought == [f"ws://127.0.0.1:{server.port}/talk/chat/a%20b"] * 2


async def test_a_namespace_that_does_not_exist_is_told_so(open_tab: OpenTab) -> None:
    lost = await open_tab(None, team="no/such/path")
    await lost.enter("Ada", status="There is no such chat · Try again")


async def test_on_a_phone_rooms_and_people_slide_in_and_nothing_is_cut_off(open_tab: OpenTab) -> None:
    ada = await open_tab("Ada", viewport={"width": 375, "height": 667}, has_touch=True, is_mobile=True)
    await ada.say("x" * 300)
    await expect(ada.bubbles).to_have_count(1)
    for element in ("html", "#log"):
        assert await ada.page.locator(element).evaluate("element => element.scrollWidth") == 375
    await expect(ada.rooms).not_to_be_visible()
    await ada.page.get_by_role("button", name="Rooms").tap()
    await expect(ada.rooms).to_be_visible()
    await ada.open_room("design")
    await expect(ada.rooms.first).not_to_be_visible()
    await expect(ada.page.get_by_role("heading", level=1)).to_have_text("#design")
    people = ada.page.get_by_role("button", name="People")
    await expect(people).to_have_text("1")
    await people.tap()
    await expect(ada.members).to_be_visible()
    await ada.page.keyboard.press("Escape")
    await expect(ada.members).not_to_be_visible()
    await expect(people).to_be_focused()
