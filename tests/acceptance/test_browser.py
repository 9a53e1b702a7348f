"""freya.js in Chromium, on the real gateway and PostgreSQL: a page of another origin ends with the stored words."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import pytest
from playwright.async_api import Browser, BrowserContext, Page

from tests.browser import Cut, Fault, Proxy, Site, Status, proxied, site, texts, until
from tests.gateway import Running, authenticated, bearer, replica, running, settings_for
from tests.model_server import Gated, ModelServer, Reply, expected_reply

BEAT_SECONDS = 0.4
STANDBY = "() => document.getElementById('phase').textContent === 'STANDBY' && window.replies.length >= 1"
LIVE = "() => window.freya.status === 'live'"
SPEAK = "text => { window.sendMessageToAPI(text, () => {}); }"
SLOW = "Tell me !reply tokens=30 rate=60"


@pytest.fixture
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    """Cookies, locks and channels of this test's own."""
    one = await browser.new_context()
    yield one
    await one.close()


@pytest.fixture
async def cockpit() -> AsyncIterator[Site]:
    async with site() as one:
        yield one


@pytest.fixture
async def gateway(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    async with running(
        settings_for(database_url, model.base_url, beat_seconds=BEAT_SECONDS, piece_timeout=60.0)
    ) as one:
        yield one


@pytest.fixture
async def proxy(gateway: Running) -> AsyncIterator[Proxy]:
    async with proxied(gateway.url) as one:
        yield one


async def opened(context: BrowserContext, cockpit: Site, *, live: bool = True) -> Page:
    page = await context.new_page()
    page.on("pageerror", lambda error: pytest.fail(f"the page threw {error}"))
    await page.goto(cockpit.url)
    if live:
        await until(page, LIVE)
    return page


async def say(page: Page, text: str) -> None:
    await page.evaluate(SPEAK, text)


async def replied(page: Page, count: int = 1, *, seconds: float = 30) -> list[dict[str, Any]]:
    """The details of every `freya:reply` so far, when there are `count`."""
    await until(page, "count => window.replies.length >= count", count, seconds=seconds)
    return await page.evaluate("() => window.replies")


async def stored(url: str, **headers: str) -> dict[str, str]:
    """turn -> Freya's words, as the gateway keeps them."""
    async with aiohttp.ClientSession() as http, http.get(url + "/v1/messages?limit=200", headers=headers) as response:
        assert response.status == 200, await response.text()
        return texts((await response.json())["messages"])


async def assert_exact(page: Page, url: str, **headers: str) -> None:
    """Each turn was answered once, in the stored words, and its pieces said the same."""
    replies: list[dict[str, Any]] = await page.evaluate("() => window.replies")
    turns = [reply["turn"] for reply in replies]
    assert len(turns) == len(set(turns))
    kept = await stored(url, **headers)
    assert {reply["turn"]: reply["message"] for reply in replies} == kept
    said: dict[str, dict[str, Any]] = await page.evaluate("() => window.said")
    assert {turn: text["text"] for turn, text in said.items() if turn in kept} == {t: kept[t] for t in said}


async def test_cockpit_works_with_one_script_tag_under_a_strict_policy(
    context: BrowserContext, cockpit: Site, gateway: Running
) -> None:
    cockpit.shows(gateway.url)
    page = await opened(context, cockpit, live=False)
    await say(page, "Hello Freya")
    await until(page, STANDBY)
    assert await page.evaluate("() => window.phases") == ["LISTENING", "REPLYING", "STANDBY"]
    assert await page.text_content("#reply") == expected_reply("Hello Freya")
    await assert_exact(page, gateway.url)


async def test_cockpit_returns_to_standby_with_words_when_the_model_fails(
    context: BrowserContext, cockpit: Site, gateway: Running
) -> None:
    cockpit.shows(gateway.url)
    page = await opened(context, cockpit)
    await say(page, "Hello !reply status=400")
    [reply] = await replied(page)
    assert reply["status"] == "fallback"
    assert reply["message"]
    assert (await page.evaluate("() => window.phases"))[-1] == "STANDBY"


async def test_kind_words_while_the_gateway_is_down_and_freya_when_it_is_back(
    context: BrowserContext, cockpit: Site, proxy: Proxy
) -> None:
    cockpit.shows(proxy.url, patience="600")
    page = await opened(context, cockpit)
    proxy.down = True
    await say(page, "Are you there?")
    [reply] = await replied(page)
    assert (reply["turn"], reply["status"], reply["error"]["code"]) == (None, "fallback", "unreachable")
    assert await page.text_content("#reply") == reply["message"]
    proxy.down = False
    await say(page, "And now?")
    assert (await replied(page, 2))[1]["message"] == expected_reply("And now?")


FAULTS: dict[str, tuple[Fault, ...]] = {
    "502": (Status(502), Status(502)),
    "503": (Status(503, {"retry-after": "1"}),),
    "429": (Status(429, {"retry-after": "1"}, cors=True),),
    "a page of HTML": (Status(200, {"content-type": "text/html"}, cors=True),),
    "half a frame, then a reset": (Cut(150), Cut(333)),
    "silently closed": (Cut(200, "close"), Cut(700, "close")),
    "stalled": (Cut(400, "stall"),),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_exact_after_what_goes_wrong_on_the_way(
    context: BrowserContext, cockpit: Site, proxy: Proxy, fault: str
) -> None:
    cockpit.shows(proxy.url)
    proxy.break_next(Cut(600, "close"), *FAULTS[fault])
    page = await opened(context, cockpit)
    await say(page, SLOW)
    [reply] = await replied(page)
    assert reply["message"] == expected_reply(SLOW)
    assert not proxy.faults, "the fault was never met"
    await until(page, LIVE)
    await say(page, "And then?")
    await replied(page, 2)
    await assert_exact(page, proxy.url)


@pytest.mark.parametrize("tickets", [False, True], ids=["bearer", "tickets"])
async def test_a_refused_token_is_renewed(
    database_url: str, clean: None, model: ModelServer, context: BrowserContext, cockpit: Site, *, tickets: bool
) -> None:
    good = bearer("ana")["authorization"].removeprefix("Bearer ")
    stale = bearer("ana", seconds=-3600)["authorization"].removeprefix("Bearer ")
    settings = settings_for(database_url, model.base_url, beat_seconds=BEAT_SECONDS, **authenticated())
    async with running(settings) as one, proxied(one.url) as proxy:
        cockpit.tokens = deque([stale, good])
        cockpit.shows(proxy.url, token_url="/token", **({"tickets": ""} if tickets else {}))
        proxy.break_next(Cut(600, "close"), Status(401, cors=True))
        page = await opened(context, cockpit)
        await say(page, SLOW)
        assert (await replied(page))[0]["message"] == expected_reply(SLOW)
        assert cockpit.token_asked >= 2
        assert any("ticket=" in line for line in proxy.asked) == tickets
        await assert_exact(page, proxy.url, **bearer("ana"))


async def test_cookies_sign_in_at_a_proxy_of_another_origin(
    database_url: str, clean: None, model: ModelServer, context: BrowserContext, cockpit: Site
) -> None:
    settings = settings_for(
        database_url, model.base_url, beat_seconds=BEAT_SECONDS, allowed_origins=(cockpit.url,), **authenticated()
    )
    async with running(settings) as one, proxied(one.url) as proxy:
        proxy.sessions["of-ana"] = bearer("ana")
        await context.add_cookies([{"name": "session", "value": "of-ana", "url": proxy.url, "httpOnly": True}])
        cockpit.shows(proxy.url, patience="600")
        page = await opened(context, cockpit, live=False)
        await say(page, "Without cookies")
        assert (await replied(page))[0]["turn"] is None
        assert await stored(one.url, **bearer("ana")) == {}
        await page.close()
        cockpit.shows(proxy.url, credentials="include")
        page = await opened(context, cockpit)
        await say(page, SLOW)
        assert (await replied(page))[0]["message"] == expected_reply(SLOW)
        await assert_exact(page, one.url, **bearer("ana"))


async def answered_over_restarts(page: Page, restart: Callable[[int], Awaitable[None]], *, times: int) -> None:
    """Asks, restarts the gateway when the reply has begun, and waits for the reply; so many times."""
    for number in range(times):
        await say(page, f"{number}: {SLOW}")
        await until(page, "count => Object.keys(window.said).length >= count", number + 1)
        await restart(number)
        await replied(page, number + 1, seconds=30)


async def test_exact_over_three_restarts_during_replies(
    context: BrowserContext, cockpit: Site, database_url: str, clean: None, model: ModelServer
) -> None:
    brief = {"beat_seconds": BEAT_SECONDS, "lease_seconds": 1.0, "grace_seconds": 0.1}
    settings = settings_for(database_url, model.base_url, **brief)
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(running(settings))
        url = one.url
        cockpit.shows(url, patience="20000")

        async def restart(_: int) -> None:
            await stack.aclose()
            port = int(url.rpartition(":")[2])
            await stack.enter_async_context(running(settings.model_copy(update={"port": port})))

        page = await opened(context, cockpit)
        await answered_over_restarts(page, restart, times=3)
        await assert_exact(page, url)


@pytest.mark.chaos
async def test_exact_over_twenty_restarts_and_kills_during_replies(
    context: BrowserContext, cockpit: Site, database_url: str, clean: None, model: ModelServer
) -> None:
    async with replica(database_url, model.base_url, FREYA_BEAT_SECONDS="0.5") as one:
        cockpit.shows(one.url, patience="20000")

        async def restart(number: int) -> None:
            await (one.kill() if number % 2 else one.terminate())
            await one.start()

        page = await opened(context, cockpit)
        await answered_over_restarts(page, restart, times=20)
        await assert_exact(page, one.url)


async def test_exact_after_being_offline(context: BrowserContext, cockpit: Site, proxy: Proxy) -> None:
    cockpit.shows(proxy.url)
    page = await opened(context, cockpit)
    await say(page, SLOW)
    await until(page, "() => Object.keys(window.said).length")
    await context.set_offline(True)
    await asyncio.sleep(0.8)
    await context.set_offline(False)
    await replied(page)
    await assert_exact(page, proxy.url)


async def test_exact_after_the_tab_was_frozen(context: BrowserContext, cockpit: Site, proxy: Proxy) -> None:
    cockpit.shows(proxy.url)
    page = await opened(context, cockpit)
    devtools = await context.new_cdp_session(page)
    await say(page, SLOW)
    await until(page, "() => Object.keys(window.said).length")
    await devtools.send("Page.setWebLifecycleState", {"state": "frozen"})
    await asyncio.sleep(0.8)
    await devtools.send("Page.setWebLifecycleState", {"state": "active"})
    await replied(page)
    await assert_exact(page, proxy.url)


async def test_ten_tabs_share_one_connection_and_hand_it_over(
    context: BrowserContext, cockpit: Site, proxy: Proxy, model: ModelServer
) -> None:
    cockpit.shows(proxy.url)
    gated = Gated()
    model.script(gated)
    tabs = [await opened(context, cockpit) for _ in range(10)]
    assert (proxy.streams(), proxy.most_streams) == (1, 1)
    await say(tabs[7], "To all of you")
    await gated.send("One ", "two ")
    for tab in tabs:
        await until(tab, "() => Object.values(window.said).some(({ text }) => text === 'One two ')")
    late = await opened(context, cockpit)
    await until(late, "() => Object.values(window.said).some(({ text }) => text === 'One two ')")
    [leader] = [tab for tab in tabs if await tab.evaluate("() => window.freya.leads")]
    await leader.close()
    tabs = [*(tab for tab in tabs if tab is not leader), late]
    await gated.send("three")
    await gated.finish()
    for tab in tabs:
        assert [reply["message"] for reply in await replied(tab)] == ["One two three"]
        await assert_exact(tab, proxy.url)
    assert proxy.streams() == 2
    assert proxy.open_streams == 1
    await say(tabs[0], "Still there?")
    for tab in tabs:
        assert (await replied(tab, 2))[1]["message"] == expected_reply("Still there?")


async def test_a_silent_leader_is_replaced(context: BrowserContext, cockpit: Site, proxy: Proxy) -> None:
    cockpit.shows(proxy.url)
    first, second = [await opened(context, cockpit) for _ in range(2)]
    blocked = asyncio.create_task(first.evaluate("() => { const end = Date.now() + 7500; while (Date.now() < end); }"))
    await until(second, "() => window.freya.leads", seconds=11)
    await say(second, "Whom do I hear?")
    assert (await replied(second))[0]["message"] == expected_reply("Whom do I hear?")
    await blocked
    assert (await replied(first))[0]["message"] == expected_reply("Whom do I hear?")
    await until(first, "() => !window.freya.leads")


async def test_send_pressed_twice_is_one_turn(context: BrowserContext, cockpit: Site, proxy: Proxy) -> None:
    cockpit.shows(proxy.url)
    page = await opened(context, cockpit)
    await page.evaluate("() => { window.sendMessageToAPI('Once'); window.sendMessageToAPI('Once'); }")
    await replied(page)
    assert len(await stored(proxy.url)) == 1
    await say(page, "Once")
    await replied(page, 2)
    await assert_exact(page, proxy.url)


async def test_network_cut_after_the_request_left_is_one_turn(
    context: BrowserContext, cockpit: Site, proxy: Proxy
) -> None:
    cockpit.shows(proxy.url)
    page = await opened(context, cockpit)
    proxy.lost = 2
    sent = await page.evaluate("() => window.sendMessageToAPI('Just once')")
    assert proxy.asked.count("POST /v1/messages") == 3
    [reply] = await replied(page)
    assert reply["turn"] == sent["turn"]
    await assert_exact(page, proxy.url)


NASTY = (
    "</script><script>window.owned = 1</script>",
    '<img src=x onerror="window.owned = 1">',
    "data: x\n\nevent: reply\ndata: {}\n\n",
    "\r\n\r",
    "\x00",
    "\u2028\u2029\u0085\ufeff",
    "\u202eright to left\u202c שלום",
    "👩‍🚀🏳️‍🌈",
    "e\u0301",
    "0123456789abcdef" * 6400,
)


async def test_nasty_text_is_shown_exactly_and_runs_nothing(
    context: BrowserContext, cockpit: Site, proxy: Proxy, model: ModelServer
) -> None:
    cockpit.shows(proxy.url)
    model.script(Reply(NASTY, gap=0.01))
    page = await opened(context, cockpit)
    words = "</script> data: \r\n \u2028 \u202e 🙂"
    await say(page, words)
    [reply] = await replied(page)
    assert reply["message"] == "".join(NASTY)
    assert await page.evaluate("() => document.getElementById('reply').textContent") == "".join(NASTY)
    assert await page.evaluate("() => window.owned") is None
    await assert_exact(page, proxy.url)


async def test_module_speaks_stops_and_asks(context: BrowserContext, cockpit: Site, gateway: Running) -> None:
    cockpit.shows(gateway.url, manual="")
    page = await opened(context, cockpit, live=False)
    await page.evaluate(
        "async url => { window.own = (await import(url + '/freya.mjs')).connectFreya({ url }); }",
        gateway.url,
    )
    sent = await page.evaluate("() => window.own.send('Go on !reply tokens=400 rate=50')")
    await until(page, "turn => (window.said[turn] || { text: '' }).text.length > 10", sent["turn"])
    await page.evaluate("() => window.own.stop()")
    [reply] = await replied(page)
    assert (reply["turn"], reply["status"]) == (sent["turn"], "stopped")
    turn = await page.evaluate("turn => window.own.request('GET', '/v1/turns/' + turn)", sent["turn"])
    assert turn["state"] == "done"
    refused = "() => window.own.send('').catch(error => [error.name, error.status, error.code])"
    assert await page.evaluate(refused) == ["FreyaError", 422, "empty_text"]
    await page.evaluate("() => window.own.close()")
    assert await page.evaluate("() => window.own.status") == "closed"
