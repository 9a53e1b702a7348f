"""A whole run: extract -> map -> load -> verify. Each step goes on where a killed run left it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, cast
from uuid import UUID

from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection
from migration import staging
from migration.documents import Document, Loss, Source
from migration.load import Loader
from migration.mapping import MappedFact, MappedMessage, MappedTopic, Mapping, Plan, Policy, Rejected, map_document
from migration.staging import Target
from migration.verify import Fault, verify


class Stopped(Exception):
    """The run cannot go on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Sum:
    """How many documents of a collection ended so."""

    collection: str
    outcome: str
    code: str
    count: int


@dataclass(frozen=True, slots=True)
class Report:
    """`inferred`: messages whose role was not stored; `losses`: what the source's format could not hold."""

    documents: int
    sums: list[Sum]
    added: int
    faults: list[Fault]
    inferred: int = 0
    losses: Sequence[Loss] = ()

    @property
    def exit_code(self) -> int:
        if self.faults:
            return 4
        return 3 if any(item.outcome == "rejected" for item in self.sums) else 0


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is to do."""

    source: Source
    mapping: Mapping
    policy: Policy
    tell: Callable[[str], None] = lambda _: None  # hears of the progress

    @property
    def origin(self) -> str:
        return staging.origin_of(self.source)


class _Undone:
    """All transactions inside one that is rolled back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Connection, None]:
        async with cast(Any, self._connection).transaction():
            yield self._connection


async def run(database: Database, job: Job, *, dry_run: bool = False) -> Report:
    """Raises Held, Stopped, NotEmpty, SourceError."""
    guard = await database.connect()
    try:
        await staging.hold(guard)
        if not dry_run:
            return await _run(database, job)
        await guard.execute("SET idle_in_transaction_session_timeout = 0")
        undone = cast(Any, guard).transaction()
        await undone.start()
        try:
            return await _run(_Undone(guard), job)
        finally:
            await undone.rollback()
    finally:
        guard.terminate()


async def _run(target: Target, job: Job) -> Report:
    async with target.transaction() as connection:
        await staging.prepare(connection)
        cursor, complete = await staging.begin(connection, job.source)
    if not complete:
        await _extract(target, job, cursor)
    await _map(target, job)
    added = await Loader(target, Plan(job.origin, job.mapping, job.policy), job.tell).load()
    job.tell("verifying")
    found = await report(target, job.origin, added=added)
    return replace(found, losses=job.source.losses())


async def report(target: Target, origin: str, *, added: int = 0) -> Report:
    """How things stand, verified."""
    async with target.transaction() as connection:
        documents = await staging.COUNT.value(connection, origin=origin)
        inferred = await staging.INFERRED.value(connection, origin=origin)
        sums = [Sum(*row.values()) for row in await staging.SUMS.all(connection, origin=origin)]
        return Report(documents, sums, added, await verify(connection, origin), inferred)


async def _extract(target: Target, job: Job, cursor: str | None) -> None:
    expected = await job.source.expected()
    read = 0
    async for page in job.source.pages(cursor):
        async with target.transaction() as connection:
            await staging.add(connection, job.origin, page)
        read += len(page.documents)
        job.tell(f"reading: {read:,} documents" + (f" of {expected:,}" if expected and not cursor else ""))
    async with target.transaction() as connection:
        found = await staging.COUNT.value(connection, origin=job.origin)
        if expected is not None and found < expected:
            raise Stopped(f"the source counts {expected} documents, {found} were read")
        await staging.DONE.execute(connection, origin=job.origin)


async def _map(target: Target, job: Job) -> None:
    """Decides anew on every document, in one transaction. Raises Stopped at an unknown collection."""
    async with target.transaction() as connection:
        await staging.FORGET.execute(connection, origin=job.origin)
        after, mapped = UUID(int=0), 0
        while documents := await staging.batch(connection, job.origin, after=after):
            rows = [_decided(job, identity, document) for identity, document in documents]
            await staging.decide(connection, job.origin, rows)
            after = documents[-1][0]
            mapped += len(documents)
            job.tell(f"mapping: {mapped:,} documents")


def _decided(job: Job, identity: UUID, document: Document) -> tuple[Any, ...]:
    collection = "/".join(document.path[::2])
    outcome = map_document(job.mapping, document, job.policy)
    match outcome:
        case None:
            raise Stopped(f"the mapping knows nothing of the collection {collection!r}: map it, or name it in --skip")
        case MappedMessage():
            owner, conversation = outcome.owner, outcome.conversation
            return identity, collection, "mapped", "", "message", owner, conversation, outcome.role, outcome.said_at
        case MappedFact():
            return identity, collection, "mapped", "", "fact", outcome.owner, None, None, outcome.said_at
        case MappedTopic():
            return identity, collection, "mapped", "", "topic", outcome.owner, None, None, outcome.last_at
        case Rejected():
            return identity, collection, "rejected", outcome.code, None, None, None, None, None
        case _:
            return identity, collection, "skipped", outcome.rule, None, None, None, None, None
