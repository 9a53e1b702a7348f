"""However a source, a mapping's options and Freya change from run to run: the end is that of one undisturbed run."""

import random
from typing import Any

import pytest

from freya_gateway.db.engine import Database
from migration.documents import Document, Timestamp, Value
from tests.migration.memory import BEGAN, Memory, fact, migrate, rolled_back, rows
from tests.migration.test_changes import say, verified

ROUNDS = 4
WORDS = ["canoe", "clay", "kiln", "sail", "boat", "bread", "soup", "lantern", "cello", "river"]
MESSAGES = """
SELECT u.subject, m.id, {} m.role, m.text, m.said_at FROM messages m
JOIN users u ON u.id = m.user_id JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
WHERE m.source ? 'imported' ORDER BY 1, 2
"""
FACTS = """
SELECT u.subject, f.id, f.slot, f.statement, f.status, f.supersedes, f.said_at FROM facts f
JOIN users u ON u.id = f.user_id ORDER BY 1, 2
"""
TOPICS = """
SELECT u.subject, t.id, {} t.title, t.keywords FROM topics t JOIN users u ON u.id = t.user_id ORDER BY 1, 2
"""
OF_SEGMENTS = """t.first_at, t.last_at, ARRAY(SELECT s.first_seq FROM segments s WHERE s.user_id = t.user_id
    AND s.topic_id = t.id ORDER BY 1) AS firsts,"""
TERMS = "SELECT user_id, lexeme, n_messages FROM term_stats ORDER BY 1, 2"
COUNTED = """
SELECT m.user_id, w.lexeme, count(*)::int AS n_messages FROM messages m, unnest(m.tsv) w GROUP BY 1, 2 ORDER BY 1, 2
"""


class World:
    """Documents that change at random."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.documents: dict[tuple[str, ...], dict[str, Value]] = {}
        for _ in range(30):
            self.add()

    def add(self) -> None:
        number = self.random.randrange(10_000)
        kind = self.random.choices(("message", "list", "fact", "topic"), (12, 1, 4, 2))[0]
        if kind == "message":
            path = self.random.choice((("messages",), ("conversations", f"c{number % 3}", "messages")))
            self.documents[*path, f"m{number}"] = self.said(number)
        elif kind == "list":
            said: list[Value] = [self.said(number + n) for n in range(self.random.randrange(1, 6))]
            self.documents["conversations", f"l{number}"] = {"messages": said, "title": self.random.choice(WORDS)}
        elif kind == "fact":
            slot = self.random.choice(("location", "pets", "job", "location"))
            document = fact(f"f{number}", number % 9, type=slot, value=self.random.choice(WORDS))
            self.documents[document.path] = document.fields | self.whose()
        else:
            self.documents["topics", f"t{number}"] = {
                "name": self.random.choice(WORDS),
                "lastUsed": Timestamp(BEGAN + number),
                **self.whose(),
            }

    def said(self, number: int) -> dict[str, Value]:
        role = self.random.choice(({"role": "user"}, {"role": "ai"}, {}, {"role": "narrator"}))
        time = {"timestamp": Timestamp(BEGAN + number * 61 + self.random.randrange(50))}
        topics: dict[str, Value] = {"topicIds": [self.random.choice(WORDS)]} if self.random.random() < 0.4 else {}
        return {"text": " ".join(self.random.sample(WORDS, 3)), **role, **time, **topics, **self.whose()}

    def whose(self) -> dict[str, Value]:
        return {"userId": self.random.choice(("ana", "bea"))} if self.random.random() < 0.3 else {}

    def change(self) -> None:
        for path in self.random.sample(sorted(self.documents), 6):
            before = self.documents.pop(path)
            if self.random.random() < 0.6:
                self.documents[path] = before | {"text": self.random.choice(WORDS), **self.whose()}
        for _ in range(4):
            self.add()

    def source(self, reading: int) -> Memory:
        shuffled = [Document(path, fields) for path, fields in self.documents.items()]
        return Memory(shuffled, fingerprint=str(reading))


async def found(database: Database, *, exactly: bool) -> tuple[Any, ...]:
    """What is there; `exactly`: with seqs, conversations, and topics' times and segments, which depend on them."""
    return (
        await rows(database, MESSAGES.format("m.seq, m.conversation_id, c.title," if exactly else "")),
        await rows(database, FACTS),
        await rows(database, TOPICS.format(OF_SEGMENTS if exactly else "")),
    )


async def check(database: Database, *, exactly: bool) -> tuple[Any, ...]:
    assert (await verified(database)).faults == []
    assert await rows(database, TERMS) == await rows(database, COUNTED)
    return await found(database, exactly=exactly)


@pytest.mark.parametrize("talks", [False, True])
@pytest.mark.parametrize("seed", range(3))
async def test_the_end_does_not_depend_on_the_way(bare: Database, seed: int, talks: bool):
    world = World(seed)
    roles: dict[str, Any] = {}
    await migrate(bare, world.source(0))
    for reading in range(1, ROUNDS + 1):
        if talks and reading == 1:
            await say(bare)
        world.change()
        roles = {"infer_roles": bool(world.random.random() < 0.7), "zone": world.random.choice((None, "Europe/Berlin"))}
        await migrate(bare, world.source(reading), append=talks, local_as_utc=roles["zone"] is not None, **roles)
        await check(bare, exactly=False)
    gone = await check(bare, exactly=not talks)
    await rolled_back(bare)
    async with bare.transaction() as connection:
        await connection.execute("TRUNCATE users CASCADE")
    await migrate(bare, world.source(99), local_as_utc=roles["zone"] is not None, **roles)
    assert gone == await check(bare, exactly=not talks)
