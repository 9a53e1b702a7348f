"""One question to the model: what do these messages say about the user? Its answer is a proposal, nothing more.

The messages are JSON lines between markers named after their content, so nothing that was said can end the block or
pass for part of the question. Secrets are masked before they leave the process.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import resources
from typing import Final, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field

from freya_gateway.db.facts import Fact
from freya_gateway.llm.structured import StructuredModel
from freya_gateway.llm.types import ChatMessage
from freya_gateway.memory.masking import mask

LONGEST_MESSAGE: Final = 4000  # characters of one message that are shown
PROMPT: Final = resources.files("freya_gateway.memory").joinpath("extraction.md").read_text("utf-8").strip()

FactKind = Literal["identity", "relation", "preference", "plan", "event", "note"]


@dataclass(frozen=True, slots=True)
class SaidMessage:
    """A message that facts may be learned from. `trusted` is false for the words of others: Freya's, and imported
    ones that only claim to be the user's. `obeyed` are sentences of it that were carried out as commands."""

    id: UUID
    seq: int
    role: str
    text: str
    said_at: datetime
    trusted: bool
    obeyed: tuple[str, ...] = ()


class Operation(BaseModel):
    """One proposed change. The reason comes first: a model that has to give one contradicts itself less."""

    model_config = ConfigDict(extra="forbid")

    reason: str
    op: Literal["add", "confirm", "supersede", "retract", "none"]
    target: int | None
    subject: str
    slot: str
    kind: FactKind
    statement: str
    value: str | None
    quote: str
    seq: list[int]
    valid_from: str | None
    sensitive: bool
    explicit: bool


class Extraction(BaseModel):
    """What the model proposes."""

    model_config = ConfigDict(extra="forbid")

    operations: list[Operation] = Field(default_factory=list)


async def propose(
    model: StructuredModel, messages: Sequence[SaidMessage], facts: Sequence[Fact], *, zone: ZoneInfo, user: str
) -> Extraction:
    """What the messages may change, `facts` being those that they may touch. Raises ModelError."""
    return await model.ask(prompt(messages, facts, zone=zone), schema=Extraction, user=user)


def prompt(messages: Sequence[SaidMessage], facts: Sequence[Fact], *, zone: ZoneInfo) -> list[ChatMessage]:
    """The question: instructions, and all data in one message of its own."""
    known = [
        {"n": n, "subject": f.subject, "slot": f.slot, "statement": f.statement, "value": f.value}
        for n, f in enumerate(facts)
    ]
    said = [
        {
            "seq": message.seq,
            "role": "user" if message.role == "user" else "freya",
            "at": message.said_at.astimezone(zone).strftime("%A %Y-%m-%d %H:%M"),
            "text": mask(message.text)[:LONGEST_MESSAGE],
        }
        for message in messages
    ]
    data = f"{_fenced('known facts', known)}\n\n{_fenced('messages', said)}"
    return [ChatMessage("system", PROMPT), ChatMessage("user", data)]


def _fenced(name: str, entries: Sequence[object]) -> str:
    body = "\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries) or "(none)"
    nonce = hashlib.blake2s(body.encode("utf-8", "replace"), digest_size=6).hexdigest()
    return f"--- {name} {nonce}\n{body}\n--- end of {name} {nonce}"
