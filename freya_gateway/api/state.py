"""What a request finds of the running gateway: built in `app`, reached as `request.state.gateway`."""

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field

from loguru import logger

from freya_gateway.api.auth import Authenticator
from freya_gateway.api.rate import SendLimiter
from freya_gateway.api.users import KnownUsers
from freya_gateway.clock import Now
from freya_gateway.context.assembler import Assembler
from freya_gateway.db.engine import Database
from freya_gateway.events.hub import Bye, Hub
from freya_gateway.events.log import EventLog
from freya_gateway.memory.deletion import Deletion
from freya_gateway.memory.exports import Exports
from freya_gateway.memory.facts import FactService
from freya_gateway.memory.imports import Imports
from freya_gateway.memory.recall import Recall
from freya_gateway.metrics import Metrics
from freya_gateway.settings import Settings
from freya_gateway.turns.service import TurnService
from freya_gateway.turns.supervisor import Supervisor

FAREWELL_SECONDS = 2.0  # for the streams to write their `bye`
TICKET_SECONDS = 60.0  # no ticket lives longer
DEPLOY_RETRY_MS = (500, 2500)


class RetiredTickets:
    """Tickets of streams that were told not to come back; EventSource does, and gets 204. Each for its short life."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def add(self, ticket: str) -> None:
        now = time.monotonic()
        self._until = {old: until for old, until in self._until.items() if until > now}
        self._until[ticket] = now + TICKET_SECONDS

    def __contains__(self, ticket: str | None) -> bool:
        return ticket is not None and self._until.get(ticket, 0.0) > time.monotonic()


@dataclass(slots=True)
class Gateway:
    """The parts that routes call, and the way out."""

    settings: Settings
    database: Database
    users: KnownUsers
    authenticator: Authenticator
    limiter: SendLimiter
    hub: Hub
    log: EventLog
    turns: TurnService
    supervisor: Supervisor
    facts: FactService
    deletion: Deletion
    exports: Exports
    imports: Imports
    assembler: Assembler
    recall: Recall
    metrics: Metrics
    now: Now
    retired: RetiredTickets = field(default_factory=RetiredTickets)
    draining: bool = False
    failed: bool = False

    def fail(self) -> None:
        """Has the process stop, with an exit code that makes the platform start it again."""
        self.failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    async def drain(self, grace: float) -> None:
        """Accepts no more sends, gives running turns `grace` seconds, tells every stream `bye`; then may be closed."""
        logger.info("draining", streams=self.hub.open, grace=grace)
        self.draining = True
        self.turns.accepting = False
        await self.supervisor.drain(grace)
        self.hub.dismiss_all(lambda: Bye("deploy", retry_ms=random.randint(*DEPLOY_RETRY_MS)))
        with suppress(TimeoutError):
            await asyncio.wait_for(self.hub.emptied(), FAREWELL_SECONDS)
        logger.info("drained", streams=self.hub.open)
