"""Keeps this process's running turns: starts them, renews their leases, stops them, and takes over what others lost.

A turn's task belongs to the supervisor, never to a request. Which turn may run is decided by the database alone.
"""

import asyncio
from collections.abc import Coroutine
from uuid import UUID

from loguru import logger

from freya_gateway.db import leases
from freya_gateway.db.leases import Holding
from freya_gateway.db.turns import Claim
from freya_gateway.errors import Unavailable
from freya_gateway.events.relay import every
from freya_gateway.turns.means import Means
from freya_gateway.turns.runner import Run, TurnRunner

SWEEP_SECONDS = 1.0
RELEASE_SECONDS = 2.0


class Supervisor:
    """The turns that this process runs. `run` is its task."""

    def __init__(self, means: Means, runner: TurnRunner, *, lease: float, room: int) -> None:
        self.lease = lease  # seconds
        self._means = means
        self._runner = runner
        self._room = room
        self._runs: dict[UUID, Run] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._renewed_at = 0.0  # event loop time

    @property
    def has_room(self) -> bool:
        """Whether another turn may start here now."""
        return not self._draining and len(self._runs) < self._room

    def start(self, claim: Claim) -> None:
        """Runs a claimed turn in a task of its own."""
        run = Run(claim)
        self._runs[claim.turn_id] = run
        self._means.metrics.running_turns.set(len(self._runs))
        self._spawn(self._supervise(run), name=f"turn-{claim.turn_id}")

    def stop(self, turn_id: UUID) -> None:
        """Ends a turn with what was said so far, if it runs here."""
        run = self._runs.get(turn_id)
        if run is not None:
            run.stop()

    async def run(self) -> None:
        """Renews leases and takes over waiting turns, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(every(self.lease / 3, self.renew), name="supervisor-renew")
            tasks.create_task(every(SWEEP_SECONDS, self.sweep), name="supervisor-sweep")

    async def renew(self) -> None:
        """Keeps this process's turns for another lease; learns of stops, and of turns that are another's now."""
        self._renewed_at = asyncio.get_running_loop().time()
        held = [(run, _holding(run)) for run in self._runs.values()]
        if not held:
            return
        async with self._means.database.transaction() as connection:
            kept = await leases.renew(connection, [holding for _, holding in held], lease=self.lease)
        for run, holding in held:
            shall_stop = kept.get(run.claim.turn_id)
            if shall_stop:
                run.stop()
            elif shall_stop is None and holding == _holding(run):  # ended, or another's by now
                run.abandon()

    async def sweep(self) -> None:
        """Takes turns that nobody runs, as many as there is room for."""
        if not self.has_room:
            return
        if asyncio.get_running_loop().time() - self._renewed_at > self.lease / 2:
            await self.renew()  # after an outage: what runs here is not to be taken from ourselves
        async with self._means.database.reading() as connection:
            users = await leases.waiting(connection, most=self._room - len(self._runs))
        for user_id in users:
            await self.take_next(user_id)

    async def take_next(self, user_id: UUID) -> None:
        """Runs the user's next turn here, if one waits and there is room."""
        if not self.has_room:
            return
        async with self._means.database.transaction() as connection:
            claim = await leases.claim_next(
                connection, user_id, owner=self._means.owner, lease=self.lease, now=self._means.now()
            )
        if claim is None:
            return
        if claim.turn_id in self._runs:  # our own lease ran out, e.g. while PostgreSQL was away
            self._runs[claim.turn_id].abandon()
        if claim.attempt > 1:
            logger.warning("turn taken over", turn=str(claim.turn_id), attempt=claim.attempt, lost=claim.lost)
        self.start(claim)

    async def drain(self, grace: float) -> None:
        """Starts nothing more; waits up to `grace` seconds for running turns, then gives the rest back."""
        self._draining = True
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace)
        left = list(self._runs.values())
        for run in left:
            run.abandon()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        if left:
            await self._give_back(left)

    async def _give_back(self, runs: list[Run]) -> None:
        """Lets others take the turns at once; if PostgreSQL is away, they will when the leases run out."""
        logger.warning("turns given back", count=len(runs))
        try:
            async with asyncio.timeout(RELEASE_SECONDS), self._means.database.transaction() as connection:
                await leases.release(connection, [_holding(run) for run in runs])
        except (TimeoutError, Unavailable):
            logger.warning("turns left to their leases")

    async def aclose(self) -> None:
        """Ends all tasks at once, leaving their turns to their leases."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[None, None, None], *, name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _supervise(self, run: Run) -> None:
        claim = run.claim
        with logger.contextualize(turn=str(claim.turn_id)):
            try:
                await self._runner.run(run)
            except Exception as error:  # boundary: the turn is left to its lease, and taken over from there
                logger.opt(exception=error).error("turn left to its lease")
            finally:
                self._forget(run)
            if run.more_waits:
                await self._continue(claim.user_id)

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.claim.turn_id) is run:
            del self._runs[run.claim.turn_id]
        self._means.metrics.running_turns.set(len(self._runs))

    async def _continue(self, user_id: UUID) -> None:
        try:
            await self.take_next(user_id)
        except Unavailable:
            logger.warning("next turn waits for PostgreSQL")  # the sweep will find it


def _holding(run: Run) -> Holding:
    return run.claim.user_id, run.claim.turn_id, run.claim.generation
