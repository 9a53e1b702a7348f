"""Does memory work in the background, beside the chat and never in its way.

A turn's end wakes the worker of its process; a sweep finds what others left. Index work has a lane of its own, so that
it never waits for a model. Whatever fails is written down with a code and tried again; what a death cuts short is still
due.
"""

import asyncio
import random
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID, uuid4

from loguru import logger

from freya_gateway.clock import Now
from freya_gateway.db import due_work
from freya_gateway.db import memory_work as store
from freya_gateway.db.engine import FAILURES, Database
from freya_gateway.db.memory_work import LEASE_SECONDS, Kind, WorkClaim
from freya_gateway.errors import LostClaim, ModelError, Unavailable
from freya_gateway.events.relay import every
from freya_gateway.metrics import Metrics

WAKE_SECONDS = 1.0  # turns that end together are looked at together, after their replies have gone out
RETRY_SECONDS = 5.0
RELEASE_SECONDS = 2.0
MOST_FOUND = 200  # users with work of one kind that a sweep takes up
MODEL_LANES = 2
CONNECTIONS: Final = 1 + MODEL_LANES  # that a worker can use at once
WOKEN_KINDS: tuple[Kind, ...] = ("index", "facts")  # a turn's end makes no topic due that a sweep would not find

Job = tuple[Kind, UUID]


@dataclass(frozen=True, slots=True)
class Pace:
    """Seconds between two looks at all users, and between two renewals of a lease."""

    sweep: float = 15.0
    renew: float = LEASE_SECONDS / 3


class Work(Protocol):
    """One kind of memory work."""

    async def run(self, claim: WorkClaim) -> None:
        """Does some of the claimed work, or all, moving its cursor on by `memory_work.complete` with each result.

        Raises ModelError where the model failed, and LostClaim where the work is another's now.
        """
        ...


class Worker:
    """The memory work that this process does. `run` is its task; `wake` never waits."""

    def __init__(
        self,
        database: Database,
        works: Mapping[Kind, Work],
        metrics: Metrics,
        *,
        now: Now,
        pace: Pace = Pace(),
    ) -> None:
        self._database = database
        self._works = works
        self._metrics = metrics
        self._now = now
        self._pace = pace
        self._woken: set[UUID] = set()
        self._listed: set[Job] = set()
        self._index_jobs: asyncio.Queue[Job] = asyncio.Queue()
        self._model_jobs: asyncio.Queue[Job] = asyncio.Queue()

    def wake(self, user_id: UUID) -> None:
        """Has the user's work looked at soon: something was said."""
        self._woken.add(user_id)

    async def run(self) -> None:
        """Until cancelled; what is under way is given back then."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(every(WAKE_SECONDS, self.look), name="memory-look")
            interval = self._pace.sweep * random.uniform(0.75, 1.25)  # replicas do not look all at once
            tasks.create_task(every(interval, self.sweep), name="memory-sweep")
            tasks.create_task(self._work_off(self._index_jobs), name="memory-index")
            for lane in range(MODEL_LANES):
                tasks.create_task(self._work_off(self._model_jobs), name=f"memory-model-{lane}")

    async def look(self) -> None:
        """Lists what is due of those who were woken."""
        woken, self._woken = list(self._woken), set()
        if not woken:
            return
        async with self._database.reading() as connection:
            for kind in WOKEN_KINDS:
                for user_id in await due_work.due_among(connection, kind, woken, now=self._now()):
                    self._list(kind, user_id)

    async def sweep(self) -> None:
        """Lists what is due of all users, and measures it."""
        now = self._now()
        for kind in self._works:
            if sum(listed == kind for listed, _ in self._listed) > MOST_FOUND // 2:
                continue  # enough to do: among many thousand users the question is not free
            async with self._database.reading() as connection:
                found = await due_work.due(connection, kind, now=now, limit=MOST_FOUND)
            for due in found:
                self._list(kind, due.user_id)
            waiting = max((now - found[0].since).total_seconds(), 0.0) if found else 0.0
            self._metrics.memory_oldest_due.labels(kind).set(waiting)
        async with self._database.reading() as connection:
            dead = await due_work.dead(connection)
        for kind in self._works:
            self._metrics.memory_dead.labels(kind).set(dead.get(kind, 0))

    def _list(self, kind: Kind, user_id: UUID) -> None:
        job = (kind, user_id)
        if kind in self._works and job not in self._listed:
            self._listed.add(job)
            (self._index_jobs if kind == "index" else self._model_jobs).put_nowait(job)

    async def _work_off(self, jobs: asyncio.Queue[Job]) -> None:
        while True:
            job = await jobs.get()
            try:
                await self._do(*job)
            except Unavailable:
                logger.warning("memory work waits for PostgreSQL", kind=job[0])
                await asyncio.sleep(RETRY_SECONDS)
            except Exception as error:  # boundary: the work is left to its lease, the lane goes on
                logger.opt(exception=error).error("memory work left to its lease", kind=job[0])
            finally:
                self._listed.discard(job)

    async def _do(self, kind: Kind, user_id: UUID) -> None:
        claim = await self._claim(kind, user_id)
        if claim is None:
            return
        try:
            code = await self._attempt(claim)
        except asyncio.CancelledError:
            await self._give_back(claim)
            raise
        if code is not None:
            await self._fail(claim, code)
            return
        async with self._database.transaction() as connection:
            moved = await store.release(connection, claim)
        if moved:
            self.wake(user_id)  # for what is left, or came meanwhile

    async def _claim(self, kind: Kind, user_id: UUID) -> WorkClaim | None:
        """The user's work, if it is due still: another may have done it since it was listed."""
        now = self._now()
        async with self._database.transaction() as connection:
            if kind in WOKEN_KINDS and not await due_work.due_among(connection, kind, [user_id], now=now):
                return None
            return await store.claim(connection, user_id, kind, owner=uuid4().hex, now=now)

    async def _attempt(self, claim: WorkClaim) -> str | None:
        """Does the work; the code of its failure."""
        try:
            await self._attend(claim)
        except LostClaim:
            self._count(claim, "lost")
            return None
        except ModelError as error:
            return error.code
        except Unavailable:
            self._count(claim, "interrupted")
            raise
        except Exception as error:  # boundary: written down as failed, and tried again
            logger.opt(exception=error).error("memory work failed", kind=claim.kind, user=str(claim.user_id))
            return "internal_error"
        self._count(claim, "done")
        return None

    async def _attend(self, claim: WorkClaim) -> None:
        """Runs the work and keeps its lease meanwhile. Raises LostClaim when it is another's."""
        task = asyncio.create_task(self._works[claim.kind].run(claim), name=f"memory-{claim.kind}-{claim.user_id}")
        try:
            while not (await asyncio.wait({task}, timeout=self._pace.renew))[0]:
                if not await self._kept(claim):
                    raise LostClaim(claim.kind)
            task.result()
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def _kept(self, claim: WorkClaim) -> bool:
        try:
            async with self._database.transaction() as connection:
                return await store.renew(connection, claim)
        except Unavailable:
            return True  # as far as is known; writing the result will tell

    async def _fail(self, claim: WorkClaim, code: str) -> None:
        self._count(claim, "failed")
        async with self._database.transaction() as connection:
            dead = await store.fail(connection, claim, code=code, now=self._now(), jitter=random.uniform(0.75, 1))
        fields = {"kind": claim.kind, "user": str(claim.user_id), "code": code, "attempt": claim.attempts + 1}
        logger.bind(**fields).log(
            "ERROR" if dead else "WARNING", "memory work given up" if dead else "memory work failed"
        )

    async def _give_back(self, claim: WorkClaim) -> None:
        """Lets others go on at once; if PostgreSQL is away, they will when the lease runs out."""
        with suppress(Unavailable, *FAILURES):
            async with asyncio.timeout(RELEASE_SECONDS), self._database.transaction() as connection:
                await store.release(connection, claim)

    def _count(self, claim: WorkClaim, outcome: str) -> None:
        self._metrics.memory_runs.labels(claim.kind, outcome).inc()
