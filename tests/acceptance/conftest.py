"""Gateways behind real HTTP, on a clean database and a scripted model."""

from collections.abc import AsyncIterator

import pytest

from tests.gateway import Running, running, settings_for
from tests.model_server import ModelServer


@pytest.fixture
async def freya(database_url: str, clean: None, model: ModelServer) -> AsyncIterator[Running]:
    """An open gateway in this event loop: everyone is `owner`."""
    async with running(settings_for(database_url, model.base_url)) as one:
        yield one
