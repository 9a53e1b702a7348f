"""Gateways behind real HTTP, on a clean database and a scripted model; a browser for their pages."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, async_playwright

from tests.browser import FLAGS, chromium
from tests.gateway import Running, running, settings_for
from tests.model_server import ModelServer


@pytest.fixture
async def freya(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    """An open gateway in this event loop: everyone is `owner`."""
    async with running(settings_for(database_url, model.base_url)) as one:
        yield one


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Debian's Chromium, without a window."""
    path = chromium()
    async with async_playwright() as playwright:
        one = await playwright.chromium.launch(executable_path=path, headless=True, args=list(FLAGS))
        yield one
        await one.close()
