"""An export for people to read. What somebody said is quoted and escaped: it cannot look like anything else."""

import re
from collections.abc import AsyncGenerator, Iterable
from datetime import datetime
from typing import Final
from uuid import UUID
from zoneinfo import ZoneInfo

from freya_gateway.db import exports as store
from freya_gateway.db.backup import BackupFact, BackupMessage, BackupTopic
from freya_gateway.db.query import Connection

SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|~&!])")
LEADING: Final = re.compile(r"^(\s*)(?:([-+=:])|(\d+)([.)]))")
INVISIBLE: Final = re.compile(r"[\x00-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
SPEAKERS: Final = {"user": "You", "assistant": "Freya"}


async def markdown(connection: Connection, user_id: UUID, *, exported_at: datetime) -> AsyncGenerator[bytes, None]:
    """Facts, topics, then every conversation; times are the user's."""
    account = await store.account(connection, user_id)
    zone = ZoneInfo(account.time_zone)
    name = f" of {escaped(account.display_name)}" if account.display_name else ""
    yield _bytes(
        f"# Freya's memory{name}\n\nExported {_moment(exported_at, zone)} ({escaped(account.time_zone)}).\n\n## Facts\n"
    )
    async for facts in store.facts(connection, user_id):
        yield _bytes("".join(_fact(fact, zone) for fact in facts))
    yield b"\n## Topics\n"
    async for topics in store.topics(connection, user_id):
        yield _bytes("".join(_topic(topic, zone) for topic in topics))
    yield b"\n## Conversations\n"
    conversation: UUID | None = None
    async for messages in store.messages(connection, user_id):
        yield _bytes("".join(_messages(messages, zone, last=conversation)))
        conversation = messages[-1].conversation


def escaped(text: str) -> str:
    """`text` as one line of Markdown that shows it, and nothing else."""
    return _escaped_line(" ".join(text.split()))


def quoted(text: str) -> str:
    """`text` as a quotation, line by line."""
    return "".join(f"> {_escaped_line(line)}  \n" for line in text.splitlines() or [""])


def _escaped_line(line: str) -> str:
    visible = INVISIBLE.sub("\ufffd", line.expandtabs(1)).strip()
    return LEADING.sub(r"\1\3\\\2\4", SPECIAL.sub(r"\\\1", visible))


def _fact(fact: BackupFact, zone: ZoneInfo) -> str:
    now = fact.fact
    state = "" if now.status == "active" else f" ({now.status})"
    lines = [f"\n- {escaped(now.statement)}{state}, since {_moment(now.created_at, zone)}\n"]
    lines += [f"  - from your words: {escaped(source.quote)}\n" for source in fact.sources]
    return "".join(lines)


def _topic(topic: BackupTopic, zone: ZoneInfo) -> str:
    span = f"{_moment(topic.first_at, zone)} to {_moment(topic.last_at, zone)}"
    words = f"\n{escaped(topic.summary)}\n" if topic.summary else ""
    return f"\n### {escaped(topic.title)}\n\n{span}\n{words}"


def _messages(messages: Iterable[BackupMessage], zone: ZoneInfo, *, last: UUID | None) -> Iterable[str]:
    for message in messages:
        if message.conversation != last:
            yield f"\n### {message.said_at.astimezone(zone):%A, %d %B %Y, %H:%M}\n"
        last = message.conversation
        yield f"\n**{SPEAKERS[message.role]}**, {_moment(message.said_at, zone)}\n\n{quoted(message.text)}"


def _moment(at: datetime, zone: ZoneInfo) -> str:
    return f"{at.astimezone(zone):%Y-%m-%d %H:%M}"


def _bytes(text: str) -> bytes:
    return text.encode()
