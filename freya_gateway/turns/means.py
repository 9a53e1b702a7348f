"""What turns are run with: the parts that `app` builds once and the service, the supervisor and the runner share."""

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from freya_gateway.clock import Now
from freya_gateway.context.assembler import Assembler
from freya_gateway.db.engine import Database
from freya_gateway.events.hub import Hub
from freya_gateway.events.log import EventLog
from freya_gateway.events.writer import LogWriter
from freya_gateway.llm.types import ChatModel
from freya_gateway.memory.commands import Commands
from freya_gateway.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Means:
    """`owner` names this process in leases and notifications. `on_ended(user)` is told of a turn's end; never waits."""

    database: Database
    hub: Hub
    log: EventLog
    writer: LogWriter
    model: ChatModel
    assembler: Assembler
    commands: Commands
    metrics: Metrics
    now: Now
    owner: str
    on_ended: Callable[[UUID], None]
