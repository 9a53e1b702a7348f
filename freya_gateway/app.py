"""The composition root: the only file that knows all parts. Built in order, closed in reverse."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware
from loguru import logger

from freya_gateway import __version__
from freya_gateway.api import account, exports, facts, health, messages, stream, topics, turns, web
from freya_gateway.api import memory as memory_api
from freya_gateway.api import recall as recall_api
from freya_gateway.api.auth import Authenticator
from freya_gateway.api.errors import install_error_handlers
from freya_gateway.api.middleware import RequestMiddleware, cors_options
from freya_gateway.api.rate import SendLimiter
from freya_gateway.api.state import Gateway
from freya_gateway.api.users import KnownUsers
from freya_gateway.clock import utc_now
from freya_gateway.context.assembler import Assembler
from freya_gateway.context.budget import Budget
from freya_gateway.context.prompts import load_persona
from freya_gateway.db.engine import Database
from freya_gateway.errors import ConfigurationError
from freya_gateway.events.hub import Hub
from freya_gateway.events.log import EventLog
from freya_gateway.events.relay import Relay
from freya_gateway.events.writer import LogWriter
from freya_gateway.llm.openai import OpenAIChat, OpenAIOptions
from freya_gateway.memory.commands import Commands
from freya_gateway.memory.deletion import Deletion
from freya_gateway.memory.exports import Exports
from freya_gateway.memory.facts import FactService
from freya_gateway.memory.imports import Imports
from freya_gateway.memory.recall import Recall
from freya_gateway.metrics import Metrics
from freya_gateway.settings import Settings
from freya_gateway.turns.means import Means
from freya_gateway.turns.runner import TurnRunner
from freya_gateway.turns.service import TurnService
from freya_gateway.turns.supervisor import Supervisor
from freya_gateway.worker import MemoryProcess
from freya_gateway.worker import build as build_memory

SECONDS_PER_HOUR = 3600
DESCRIPTION = "Freya's streaming event gateway. The wire is described in docs/api.md."


def create_app(settings: Settings) -> FastAPI:
    """The application. `settings` must name a database and a model; nothing is opened before its lifespan."""
    stream.keep_streams_through_shutdown()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[dict[str, Gateway], None]:
        async with _running(settings) as gateway:
            app.state.gateway = gateway
            yield {"gateway": gateway}

    app = FastAPI(title="Freya's gateway", version=__version__, description=DESCRIPTION, lifespan=lifespan)
    install_error_handlers(app)
    app.add_middleware(RequestMiddleware)
    app.add_middleware(CORSMiddleware, **cors_options(settings))  # outermost: a page may read refusals too
    for router in (
        stream.router,
        messages.router,
        turns.router,
        memory_api.router,
        recall_api.router,
        account.router,
        exports.router,
        facts.router,
        topics.router,
        health.router,
        web.router,
    ):
        app.include_router(router)
    return app


@asynccontextmanager
async def _running(settings: Settings) -> AsyncGenerator[Gateway, None]:
    metrics = Metrics()
    memory = build_memory(settings, metrics) if settings.worker else None
    means, gateway = _build(settings, metrics, memory)
    relay = Relay(
        means.database,
        means.hub,
        sender=means.owner,
        on_stop=gateway.supervisor.stop,
        retention=settings.retention_hours * SECONDS_PER_HOUR,
    )
    works = [means.writer.run, relay.run, gateway.supervisor.run, *([memory.worker.run] if memory else [])]
    background = Background(works, on_death=gateway.fail)
    background.start()
    try:
        yield gateway
    finally:
        await gateway.supervisor.aclose()
        await background.stop()
        await gateway.authenticator.aclose()
        await means.model.aclose()
        if memory is not None:
            await memory.aclose()
        await means.database.aclose()


def _build(settings: Settings, metrics: Metrics, memory: MemoryProcess | None) -> tuple[Means, Gateway]:
    means = _means(settings, metrics, memory)
    supervisor = Supervisor(means, TurnRunner(means), lease=settings.lease_seconds, room=settings.max_turns)
    longest = min(settings.max_message_tokens, means.assembler.longest_message)
    gateway = Gateway(
        settings=settings,
        database=means.database,
        users=KnownUsers(means.database),
        authenticator=Authenticator(settings, means.now),
        limiter=SendLimiter(settings.rate_limit),
        hub=means.hub,
        log=means.log,
        turns=TurnService(means, supervisor, longest=longest),
        supervisor=supervisor,
        facts=FactService(means.database, means.now),
        deletion=Deletion(means.database, means.now),
        exports=Exports(means.database, means.now),
        imports=Imports(means.database, means.now),
        assembler=means.assembler,
        recall=Recall(means.database),
        metrics=means.metrics,
        now=means.now,
    )
    return means, gateway


def _means(settings: Settings, metrics: Metrics, memory: MemoryProcess | None) -> Means:
    if settings.database_url is None:
        raise ConfigurationError("DATABASE_URL is not set; start with `freya serve`, which brings a database along.")
    owner = token_hex(4)
    database = Database(settings.database_url.get_secret_value(), pool_size=settings.database_pool)
    hub = Hub(
        metrics,
        streams_per_user=settings.streams_per_user,
        max_streams=settings.max_streams,
        patience=settings.slow_seconds,
    )
    budget = Budget(total=settings.context_tokens)
    return Means(
        database=database,
        hub=hub,
        log=EventLog(database, hub),
        writer=LogWriter(database, hub, metrics, sender=owner),
        model=OpenAIChat(_model_options(settings), metrics),
        assembler=Assembler(
            database, load_persona(settings.persona), budget=budget, now=utc_now, recall=Recall(database)
        ),
        commands=Commands(database),
        metrics=metrics,
        now=utc_now,
        owner=owner,
        on_ended=memory.worker.wake if memory else lambda _: None,
    )


def _model_options(settings: Settings) -> OpenAIOptions:
    return OpenAIOptions(
        model=settings.model,
        fallback_model=settings.fallback_model,
        api_key=settings.openai_api_key,
        base_url=settings.openai_base_url,
        temperature=settings.temperature,
        frequency_penalty=settings.frequency_penalty,
        presence_penalty=settings.presence_penalty,
        max_tokens=settings.max_reply_tokens,
        first_piece_timeout=settings.first_piece_timeout,
        piece_timeout=settings.piece_timeout,
    )


class Background:
    """The tasks that must live as long as the process: if one dies, the process stops and is started anew."""

    def __init__(
        self, works: Sequence[Callable[[], Coroutine[None, None, None]]], *, on_death: Callable[[], None]
    ) -> None:
        self._works = works
        self._on_death = on_death
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        for work in self._works:
            task = asyncio.create_task(work(), name=work.__qualname__)
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            logger.opt(exception=task.exception()).critical("background task died", task=task.get_name())
            self._on_death()
