"""The cockpit page in Chromium, on the real gateway and PostgreSQL, under its strict policy."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from freya_gateway.db.engine import Database
from tests.acceptance.test_memory_worker import grouped, remembered, sweeping
from tests.browser import until
from tests.gateway import Running, authenticated, bearer, running, settings_for
from tests.model_server import Gated, ModelServer
from tests.remembering import living, operation

WIDTHS = (360, 768, 1280, 1920)
SLOW = "Tell me !reply tokens=200 rate=20"
FACT = {"statement": "I live in Porto", "slot": "home_city", "kind": "identity", "value": "Porto"}


@pytest.fixture
async def page(browser: Browser, freya: Running) -> AsyncIterator[Page]:
    """The cockpit, live. Whatever its console complains about, refusals by the policy too, fails the test."""
    complaints: list[str] = []
    one = await browser.new_page(reduced_motion="reduce")
    one.set_default_timeout(8000)
    one.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    one.on("pageerror", lambda error: complaints.append(str(error)))
    await one.goto(freya.url)
    await expect(one.locator("#link")).to_have_text("live")
    yield one
    await one.close()
    assert complaints == []


async def added(page: Page) -> None:
    await page.fill("#new-statement", FACT["statement"])
    await page.press("#new-statement", "Enter")
    await expect(page.locator("#facts .active")).to_contain_text("I live in Porto")


async def test_message_by_keyboard_streams_a_reply_and_shows_what_it_stood_on(page: Page) -> None:
    await added(page)
    await page.focus("#text")
    await page.keyboard.type("Hello <b>Freya</b> !reply tokens=20 rate=20")
    await page.keyboard.press("Enter")
    await expect(page.locator("#phase")).to_have_text("REPLYING")
    await expect(page.locator("#phase")).to_have_text("STANDBY")
    await expect(page.locator("#talk .user")).to_contain_text("Hello <b>Freya</b>")
    spoken = await page.locator("#talk .assistant").inner_text()
    assert spoken
    assert spoken == await page.locator("#spoken").text_content()
    await expect(page.locator("#why")).to_contain_text("fact: I live in Porto")
    await expect(page.locator("#log")).to_contain_text("thinking")


async def test_escape_stops_the_reply(page: Page, freya: Running) -> None:
    await page.fill("#text", SLOW)
    await page.keyboard.press("Enter")
    await expect(page.locator("#talk .assistant")).not_to_be_empty()
    await page.keyboard.press("Escape")
    await expect(page.locator("#phase")).to_have_text("STANDBY")
    await expect(page.locator("#log")).to_contain_text('"status":"stopped"')


async def test_fact_is_edited_undone_and_forgotten(page: Page) -> None:
    await added(page)
    await page.get_by_role("button", name="Edit: I live in Porto", exact=True).click()
    await page.fill("#dialog-field", "I live in Lisbon")
    await page.keyboard.press("Enter")
    await expect(page.locator("#facts .active")).to_contain_text("I live in Lisbon")
    await page.get_by_role("button", name="Undo: I live in Lisbon", exact=True).click()
    await expect(page.locator("#facts .active")).to_contain_text("I live in Porto")
    await page.get_by_role("button", name="Forget: I live in Porto", exact=True).click()
    await page.click("#dialog-yes")
    await expect(page.locator("#facts")).to_have_text("Nothing is known yet.")


async def test_budget_bar_shows_each_block(page: Page, freya: Running) -> None:
    await page.fill("#text", "How long is this?")
    await expect(page.locator("#legend")).to_contain_text("words")
    prompt = await freya.get("/v1/context", params={"text": "How long is this?"})
    await expect(page.locator("#budget-total")).to_contain_text(str(prompt["tokens"]))
    assert await page.locator("#budget span").count() == len(prompt["blocks"])
    await until(page, "() => document.querySelector('#budget span').offsetWidth > 0")


async def test_curl_names_the_call_and_not_the_token(page: Page) -> None:
    await page.evaluate("sessionStorage.setItem('freya.token', 'very-secret')")
    await page.fill("#text", "It's me")
    await page.locator("#send-curl button").click()
    await expect(page.locator("#notice")).to_contain_text("/v1/stream")
    shown = await page.locator("#notice").inner_text()
    assert "$FREYA_TOKEN" in shown
    assert "very-secret" not in shown
    assert "It'\\''s me" in shown
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 800})
        box = await page.locator("#notice").bounding_box()
        assert box is not None
        assert box["width"] > 300, width
        await page.locator("#composer .main").click(trial=True, timeout=2000)


PHASES = """() => {
  window.phases = [];
  const seen = new MutationObserver((changes) => {
    for (const { addedNodes } of changes) window.phases.push(...[...addedNodes].map((node) => node.data));
  });
  seen.observe(document.getElementById("phase"), { childList: true });
}"""


async def test_all_three_phases_are_shown(page: Page, model: ModelServer) -> None:
    gated = Gated()
    model.script(gated)
    await page.evaluate(PHASES)
    await page.fill("#text", "Hello")
    await page.keyboard.press("Enter")
    await expect(page.locator("#phase")).to_have_text("REPLYING")
    await expect(page.locator("#stop")).to_be_enabled()
    await gated.send("One ", "two")
    await expect(page.locator("#talk .assistant")).to_have_text("One two")
    await gated.finish()
    await expect(page.locator("#phase")).to_have_text("STANDBY")
    await expect(page.locator("#stop")).to_be_disabled()
    assert await page.evaluate("window.phases") == ["LISTENING", "REPLYING", "STANDBY"]


async def test_pending_facts_are_accepted_and_rejected(
    page: Page, database: Database, database_url: str, model: ModelServer
) -> None:
    said = {"The user has asthma.": "I have asthma", "The user goes to church.": "I go to church"}
    async with living(database, database_url, model, "owner") as life:
        for statement, words in said.items():
            await life.told(words, operation(statement=statement, slot="note", value=words, sensitive=True))
    await expect(page.locator("#facts .pending")).to_have_count(2)
    await page.get_by_role("button", name="Accept: The user has asthma.", exact=True).click()
    await expect(page.locator("#facts .active")).to_contain_text("The user has asthma.")
    await page.get_by_role("button", name="Reject: The user goes to church.", exact=True).click()
    await expect(page.locator("#facts .pending")).to_have_count(0)
    await expect(page.locator("#facts .active")).to_have_count(1)


async def test_topics_appear_and_are_renamed_undone_and_forgotten(
    page: Page, freya: Running, database: Database, model: ModelServer
) -> None:
    model.script_for("ProposedTopics", grouped(1))
    await remembered(database, "owner")
    async with sweeping(freya):
        await expect(page.locator("#topics")).to_contain_text("Pottery with Ana")
    await expect(page.locator("#why")).to_contain_text("learned: Pottery with Ana")
    await page.get_by_role("button", name="Edit: Pottery with Ana", exact=True).click()
    await page.fill("#dialog-field", "Clay")
    await page.keyboard.press("Enter")
    await page.get_by_role("button", name="Undo: Clay", exact=True).click()
    await page.get_by_role("button", name="Forget: Pottery with Ana", exact=True).click()
    await page.click("#dialog-yes")
    await expect(page.locator("#topics")).to_have_text("A conversation gets its topics when it has ended.")


async def test_signing_in_and_out(database_url: str, clean: None, model: ModelServer, browser: Browser) -> None:
    token = bearer("ana")["authorization"].removeprefix("Bearer ")
    async with running(settings_for(database_url, model.base_url, **authenticated())) as guarded:
        page = await browser.new_page(reduced_motion="reduce")
        await page.goto(guarded.url)
        await expect(page.locator("#notice")).to_contain_text("authorization")
        await page.click("#sign-in")
        await page.fill("#dialog-field", token)
        assert await page.get_attribute("#dialog-field", "type") == "password"
        await page.keyboard.press("Enter")
        await expect(page.locator("#link")).to_have_text("live")
        assert token not in page.url
        await page.fill("#text", "It is me")
        await page.keyboard.press("Enter")
        await expect(page.locator("#spoken")).not_to_be_empty()
        kept = await guarded.get("/v1/messages", headers=bearer("ana"))
        assert [message["role"] for message in kept["messages"]] == ["assistant", "user"]
        await page.click("#sign-in")
        await page.keyboard.press("Enter")
        await expect(page.locator("#talk")).to_be_empty()
        await expect(page.locator("#link")).not_to_have_text("live")
        await page.close()


async def test_an_erased_log_leaves_an_empty_page_that_goes_on(page: Page, freya: Running) -> None:
    await page.fill("#text", "Forget this")
    await page.keyboard.press("Enter")
    await expect(page.locator("#spoken")).not_to_be_empty()
    async with freya.http.delete(f"{freya.url}/v1/memory?confirm=everything") as response:
        assert response.status == 200, await response.text()
    await expect(page.locator("#talk")).to_be_empty()
    await expect(page.locator("#why")).not_to_contain_text("tokens")
    await page.fill("#text", "A new start")
    await page.keyboard.press("Enter")
    await expect(page.locator("#talk .assistant")).to_have_count(1)
    await expect(page.locator("#phase")).to_have_text("STANDBY")
    await expect(page.locator("#talk .user")).to_have_text("A new start")


FOCUSED = """() => {
  const one = document.activeElement;
  return [one.id || one.getAttribute("aria-label") || one.textContent, getComputedStyle(one).outlineStyle];
}"""
CONTROLS = """() => [...document.querySelectorAll("a, button:enabled, input, textarea, [tabindex]")]
  .filter((one) => !one.closest("dialog")).length"""


async def test_every_control_is_reached_by_tab_and_shows_it(page: Page) -> None:
    await added(page)
    controls = await page.evaluate(CONTROLS)
    await page.focus(".skip")
    reached = [await page.evaluate(FOCUSED)]
    while len(reached) < controls:
        await page.keyboard.press("Tab")
        reached.append(await page.evaluate(FOCUSED))
    assert len({name for name, _ in reached}) == controls, reached
    assert [name for name, outline in reached if outline == "none"] == []
    assert reached[0][0] == "Skip to the message field"


async def test_keyboard_keeps_its_place_through_dialogs_and_changes(page: Page, freya: Running) -> None:
    await added(page)
    edit = page.get_by_role("button", name="Edit: I live in Porto", exact=True)
    await edit.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("#dialog-field")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(edit).to_be_focused()
    await page.keyboard.press("Enter")
    async with freya.http.post(f"{freya.url}/v1/facts", json={"statement": "I have a cat"}) as response:
        cat = (await response.json())["id"]
    await expect(page.locator("#why")).to_contain_text("I have a cat")
    await page.keyboard.press("Escape")
    await expect(page.locator("#facts")).to_contain_text("I have a cat")
    await expect(edit).to_be_focused()
    async with freya.http.delete(f"{freya.url}/v1/facts/{cat}") as response:
        assert response.status == 204
    await expect(page.locator("#facts")).not_to_contain_text("I have a cat")
    await expect(edit).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("ControlOrMeta+a")
    await page.keyboard.type("I live in Lisbon")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Edit: I live in Lisbon", exact=True)).to_be_focused()
    await page.get_by_role("button", name="Forget: I live in Lisbon", exact=True).focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Enter")
    await expect(page.locator("#facts")).to_have_text("Nothing is known yet.")
    await expect(page.locator("#facts")).to_be_focused()


async def violations(page: Page) -> list[Any]:
    """What axe finds."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8") + ";0")
    found: dict[str, Any] = await page.evaluate("axe.run()")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]


async def test_no_accessibility_violation_in_the_dialogs(page: Page) -> None:
    await added(page)
    for opener in ("Edit: I live in Porto", "Forget: I live in Porto", "Sign in"):
        await page.get_by_role("button", name=opener, exact=True).click()
        await expect(page.locator("#dialog")).to_be_visible()
        for width in WIDTHS:
            await page.set_viewport_size({"width": width, "height": 640})
            assert await violations(page) == [], (opener, width)
        await page.keyboard.press("Escape")


async def test_no_accessibility_violation_and_no_sideways_scrolling(page: Page) -> None:
    await added(page)
    await page.fill("#text", "Hello")
    await page.keyboard.press("Enter")
    await expect(page.locator("#why")).to_contain_text("fact: I live in Porto")
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        await asyncio.sleep(0.1)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        assert await violations(page) == [], width
