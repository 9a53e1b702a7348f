"""The memory's worker with all that it needs: a part of the gateway's process, or a process of its own."""

import asyncio
import signal
from dataclasses import dataclass

from loguru import logger

from freya_gateway.clock import utc_now
from freya_gateway.db.engine import Database
from freya_gateway.db.memory_work import Kind
from freya_gateway.errors import ConfigurationError
from freya_gateway.llm.structured import OpenAIStructured, StructuredOptions
from freya_gateway.memory.commands import Commands
from freya_gateway.memory.indexing import IndexWork
from freya_gateway.memory.learning import FactsWork
from freya_gateway.memory.topics import TopicsWork
from freya_gateway.memory.worker import CONNECTIONS, Work, Worker
from freya_gateway.metrics import Metrics
from freya_gateway.settings import Settings


@dataclass(frozen=True, slots=True)
class MemoryProcess:
    """A worker, with connections of its own so that the chat never waits for one."""

    worker: Worker
    database: Database
    model: OpenAIStructured

    async def aclose(self) -> None:
        await self.model.aclose()
        await self.database.aclose()


def build(settings: Settings, metrics: Metrics) -> MemoryProcess:
    """The worker of a process. `settings` must name a database and a model; nothing is opened yet."""
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL is not set: the worker needs the database of its gateway.")
    database = Database(settings.database_url.get_secret_value(), pool_size=CONNECTIONS)
    options = StructuredOptions(
        model=settings.memory_model or settings.model,
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
    )
    model = OpenAIStructured(options, metrics)
    works: dict[Kind, Work] = {
        "index": IndexWork(database, utc_now),
        "facts": FactsWork(database, model, Commands(database), utc_now),
        "topics": TopicsWork(database, model, utc_now),
    }
    return MemoryProcess(Worker(database, works, metrics, now=utc_now), database, model)


def run_alone(settings: Settings) -> None:
    """Works until SIGTERM or SIGINT, gives back what is under way, returns."""
    asyncio.run(_work(settings))


async def _work(settings: Settings) -> None:
    memory = build(settings, Metrics())
    working = asyncio.create_task(memory.worker.run(), name="memory-worker")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    logger.info("memory worker started")
    try:
        await asyncio.wait({working})
        if not working.cancelled():
            working.result()
    finally:
        await memory.aclose()
    logger.info("memory worker stopped")
