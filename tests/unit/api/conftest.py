"""What the log says during a test, and who vouches for users."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
from loguru import logger

from tests.unit.api.provider import Provider

if TYPE_CHECKING:
    from loguru import Record


@pytest.fixture
def log() -> Iterator[list["Record"]]:
    """The log's records, from DEBUG on."""
    records: list[Record] = []
    sink = logger.add(lambda message: records.append(message.record), level="DEBUG")
    yield records
    logger.remove(sink)


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with Provider().serving() as one:
        yield one
