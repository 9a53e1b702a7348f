"""The cockpit page in Chromium, on the real gateway and PostgreSQL, under its strict policy."""

import asyncio
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser import until
from tests.gateway import Running

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


async def test_no_accessibility_violation_and_no_sideways_scrolling(page: Page) -> None:
    await added(page)
    await page.fill("#text", "Hello")
    await page.keyboard.press("Enter")
    await expect(page.locator("#why")).to_contain_text("fact: I live in Porto")
    await page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8") + ";0")
    for width in WIDTHS:
        await page.set_viewport_size({"width": width, "height": 900})
        await asyncio.sleep(0.1)
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        found: dict[str, Any] = await page.evaluate("axe.run()")
        problems = [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]]
        assert problems == [], width
