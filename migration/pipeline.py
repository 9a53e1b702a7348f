"""A whole run: extract -> map -> load -> verify. Each step goes on where a killed run left it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from uuid import UUID

from freya_gateway.db.engine import Database
from freya_gateway.db.query import Connection
from migration import staging
from migration.decisions import collection_of, decide_all
from migration.documents import Loss, Source
from migration.load import Loader
from migration.mapping import Settings
from migration.progress import Step, Tell, silent
from migration.staging import Decision, Target
from migration.target import FILLED, held
from migration.verify import Checksum, Fault, verify

DOCUMENTS, OUTCOMES, LOADED = (f"freya_migration.{table}" for table in ("documents", "outcomes", "loaded"))


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
class Changes:
    """Documents of the source since it was last read to its end."""

    added: int = 0
    changed: int = 0
    deleted: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """`added`, `changed`, `removed`: rows by kind; `kept`: what the app has edited and the source has changed since;
    `inferred`: messages whose role was not stored; `losses`: what the source's format could not hold."""

    origin: str
    documents: int
    sums: list[Sum]
    faults: list[Fault]
    checksums: list[Checksum]
    inferred: int
    source: Changes = Changes()
    added: dict[str, int] = field(default_factory=dict[str, int])
    changed: dict[str, int] = field(default_factory=dict[str, int])
    removed: dict[str, int] = field(default_factory=dict[str, int])
    kept: Sequence[str] = ()
    losses: Sequence[Loss] = ()

    @property
    def rejects(self) -> int:
        return sum(item.count for item in self.sums if item.outcome == "rejected")

    @property
    def exit_code(self) -> int:
        return 4 if self.faults else 3 if self.rejects else 0


@dataclass(frozen=True, slots=True)
class Job:
    """What a run is to do. Without a source, with what was read before."""

    origin: str
    source: Source | None
    settings: Settings
    tell: Tell = silent


async def run(database: Database, job: Job, *, dry_run: bool = False) -> Report:
    """Raises Held, Stopped, NotEmpty, SourceError."""
    async with held(database, undo=dry_run) as target:
        losses: Sequence[Loss] = ()
        if job.source is not None:
            await _read(target, job, job.source)
            losses = job.source.losses()
        else:
            async with target.transaction() as connection:
                await staging.settle(connection, job.origin, job.settings)
        await _map(target, job)
        tally = await Loader(target, job.origin, job.settings, job.tell).load()
        async with target.transaction() as connection:
            for table in (LOADED, *FILLED):
                await staging.analyze(connection, table)
        job.tell(Step("verifying"))
        found = await report(target, job.origin, job.settings)
        return replace(
            found,
            added=dict(+tally.added),
            changed=dict(+tally.changed),
            removed=dict(+tally.removed),
            kept=tally.kept,
            losses=losses,
        )


async def report(target: Target, origin: str, settings: Settings) -> Report:
    """How things stand, verified."""
    async with target.transaction() as connection:
        verified = await verify(connection, origin, settings)
        row = await staging.CHANGES.one(connection, origin=origin)
        return Report(
            origin=origin,
            documents=await staging.COUNT.value(connection, origin=origin),
            sums=await sums(connection, origin),
            faults=verified.faults,
            checksums=verified.checksums,
            inferred=await staging.COUNT_INFERRED.value(connection, origin=origin),
            source=Changes(row["added"], row["changed"], row["gone"] or 0),
        )


async def sums(connection: Connection, origin: str) -> list[Sum]:
    """What became of the documents."""
    return [Sum(*row.values()) for row in await staging.SUMS.all(connection, origin=origin)]


async def _read(target: Target, job: Job, source: Source) -> None:
    async with target.transaction() as connection:
        await staging.prepare(connection)
        cursor, complete = await staging.begin(connection, source, job.settings)
        read: int = await staging.READ.value(connection, origin=job.origin)
    if complete:
        return
    expected = await source.expected()
    job.tell(Step("reading", read, expected))
    async for page in source.pages(cursor):
        async with target.transaction() as connection:
            await staging.add(connection, job.origin, page)
        read += len(page.documents)
        job.tell(Step("reading", read, expected))
    async with target.transaction() as connection:
        found = await staging.READ.value(connection, origin=job.origin)
        if expected is not None and found < expected:
            raise Stopped(f"the source counts {expected} documents, {found} were read: give the same command again")
        await staging.DONE.execute(connection, origin=job.origin)
        await staging.analyze(connection, DOCUMENTS)


async def _map(target: Target, job: Job) -> None:
    """Decides anew on every document, in one transaction. Raises Stopped at an unknown collection."""
    async with target.transaction() as connection:
        documents: int = await staging.COUNT.value(connection, origin=job.origin)
        job.tell(Step("mapping", 0, documents))
        await staging.FORGET.execute(connection, origin=job.origin)
        after, mapped, rejects = UUID(int=0), 0, 0
        while batch := await staging.batch(connection, job.origin, after=after):
            decisions: list[Decision] = []
            for identity, document in batch:
                decided = decide_all(job.origin, job.settings, identity, document)
                if decided is None:
                    name = collection_of(document)
                    raise Stopped(f"the mapping knows nothing of the collection {name!r}: map it, or name it in --skip")
                decisions += decided
            for start in range(0, len(decisions), staging.PIECE):
                await staging.decide(connection, job.origin, decisions[start : start + staging.PIECE])
            after = batch[-1][0]
            mapped += len(batch)
            rejects += sum(decision.outcome == "rejected" for decision in decisions)
            job.tell(Step("mapping", mapped, documents, rejects))
        await staging.analyze(connection, OUTCOMES)
