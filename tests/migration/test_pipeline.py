"""Whole runs into a real PostgreSQL, from a source in memory."""

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aiohttp
import pytest

from freya_gateway.clock import utc_now
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.memory.facts import Edit, FactService
from freya_gateway.memory.indexing import index_batch
from migration.documents import Document, GeoPoint, Reference, Timestamp, Unresolved, Value, Vector
from migration.messages import PIECE, NotEmpty
from migration.pipeline import Stopped
from migration.staging import Held, hold
from migration.values import decode, encode
from tests.gateway import running, settings_for
from tests.migration.memory import BEGAN, KNOWN, Memory, command, everything, migrate, predecessor, rolled_back, rows
from tests.model_server import ModelServer


@pytest.mark.parametrize(
    "value",
    [
        None, True, -(2**63), 2**63 - 1, float("inf"), "a\x00\ud800", b"\x00", Timestamp(-1, 999), GeoPoint(1.0, -0.0),
        Reference("p", "d", ("a", "b")), Vector((1.0,)), Unresolved("time"), [{"a": {}, "b": [1, 1.0]}],
    ],
)  # fmt: skip
def test_values_come_back_exactly(value: Value):
    assert repr(decode(encode(value))) == repr(value)


def test_nan_minus_zero_and_kinds_of_numbers_are_kept():
    assert encode(-0.0) != encode(0.0)
    assert encode(1) != encode(1.0) != encode(True)
    assert repr(decode(encode(float("nan")))) == "nan"


async def test_predecessors_messages_take_turns_when_roles_are_inferred(bare: Database):
    report = await migrate(bare, Memory(predecessor()))
    found = await rows(bare)
    assert (report.exit_code, sum(report.added.values())) == (0, 8)
    assert [row["seq"] for row in found] == list(range(1, 9))
    assert [row["role"] for row in found] == ["user", "assistant"] * 4
    assert len({row["conversation_id"] for row in found}) == 2
    assert found[0]["said_at"] == datetime.fromtimestamp(BEGAN, UTC).replace(microsecond=1)
    assert found[0]["exact"] == '"line \\u0000 0"'
    assert all(row["segment"] and row["search_text"] and row["n_tokens"] for row in found)
    assert "role_inferred" in found[0]["source"]


async def test_a_long_conversation_is_one_and_keeps_its_title(bare: Database):
    talk = [
        Document(
            ("conversations", "c", "messages", f"m{n:04}"),
            {"role": "user", "text": f"line {n}", "timestamp": Timestamp(BEGAN + n)},
        )
        for n in range(PIECE + 50)
    ]
    parent = Document(("conversations", "c"), {"title": "Long talk", "createdAt": Timestamp(BEGAN)})
    report = await migrate(bare, Memory([parent, *talk[:-1]]))
    [conversation] = await rows(bare, "SELECT * FROM conversations")
    assert (report.exit_code, sum(report.added.values()), conversation["title"]) == (0, PIECE + 49, "Long talk")
    assert await rows(bare, "SELECT sum(last_seq - first_seq + 1) AS n FROM segments") == [{"n": PIECE + 49}]
    assert sum((await migrate(bare, Memory([parent, *talk], fingerprint="2"))).added.values()) == 1
    [again] = await rows(bare, "SELECT * FROM conversations")
    assert again["id"] == conversation["id"]
    assert again["last_message_at"] > conversation["last_message_at"]


async def test_what_came_over_is_found_by_the_gateway(bare: Database, database_url: str, model: ModelServer):
    said = "We bought the green canoe in Skagen."
    fields: dict[str, Value] = {"role": "assistant", "text": said, "timestamp": Timestamp(BEGAN, 123_456_000)}
    talk = [*predecessor(40), Document(("messages", "x"), fields)]
    facts = [Document(("userFacts", "f"), {"type": "pets", "value": "Momo", "timestamp": Timestamp(BEGAN)})]
    await migrate(bare, Memory([*talk, *facts]))
    async with running(settings_for(database_url, model.base_url)) as gateway, aiohttp.ClientSession() as session:
        async with session.get(
            f"{gateway.url}/v1/memory/search", params={"q": "Where did we buy the canoe?"}
        ) as answer:
            [found] = [item for item in (await answer.json())["messages"] if item["text"] == said]
        async with session.get(f"{gateway.url}/v1/context", params={"text": "Tell me about the canoe"}) as answer:
            prompt = await answer.text()
    assert found["role"] == "assistant"
    assert datetime.fromisoformat(found["said_at"]) == datetime.fromtimestamp(BEGAN, UTC).replace(microsecond=123_456)
    assert "Pets: Momo" in prompt
    assert model.requests == []


async def test_without_roles_messages_are_rejects_and_come_in_later(bare: Database):
    report = await migrate(bare, Memory(predecessor()), infer_roles=False)
    assert (report.exit_code, sum(report.added.values()), report.sums[0].code, report.sums[0].count) == (
        3,
        0,
        "no_role",
        8,
    )
    assert sum((await migrate(bare, Memory(predecessor()))).added.values()) == 8


async def test_a_second_run_changes_nothing(bare: Database):
    await migrate(bare, Memory(predecessor()))
    before = await rows(bare)
    assert sum((await migrate(bare, Memory(predecessor()))).added.values()) == 0
    assert await rows(bare) == before


async def test_a_cut_run_goes_on_to_the_same_rows(bare: Database):
    with pytest.raises(ConnectionError):
        await migrate(bare, Memory(predecessor(), breaks_after=2))
    assert len(await rows(bare, "SELECT * FROM freya_migration.documents")) == 6
    assert sum((await migrate(bare, Memory(predecessor()))).added.values()) == 8


async def test_a_dry_run_leaves_nothing(bare: Database):
    assert sum((await migrate(bare, Memory(predecessor()), dry_run=True)).added.values()) == 8
    assert not await rows(bare, "SELECT id FROM users")
    assert not await rows(bare, "SELECT 1 FROM pg_namespace WHERE nspname = 'freya_migration'")


async def test_a_second_runner_is_told_who_is_at_work(bare: Database):
    other = await bare.connect()
    await hold(other)
    with pytest.raises(Held, match="pid"):
        await migrate(bare, Memory(predecessor()))
    other.terminate()


async def test_an_unknown_collection_stops_the_run(bare: Database):
    with pytest.raises(Stopped, match="invoices"):
        await migrate(bare, Memory([Document(("invoices", "i"), {"type": "job"})]))


async def test_commands_tell_how_things_stand(bare: Database, database_url: str):
    assert await command(database_url, "status") == (0, "")
    rejected = Document(("messages", "odd\ud800/\x00"), {"timestamp": Timestamp(BEGAN)})
    await migrate(bare, Memory([*predecessor(), *KNOWN[:2], rejected]))
    code, said = await command(database_url, "status")
    assert (code, "read to its end" in said, "2 fact, 8 message" in said, "no_text" in said) == (0, True, True, True)
    code, said = await command(database_url, "rejects", "list")
    assert code == 0
    assert json.loads(said) == {
        "origin": "p/(default)",
        "path": "messages/odd\ud800/\x00",
        "pointer": "",
        "code": "no_text",
    }
    assert (await command(database_url, "verify"))[0] == 0
    identity = (await rows(bare))[2]["id"]
    async with bare.transaction() as connection:
        await connection.execute("UPDATE messages SET said_at = said_at + interval '1 microsecond' WHERE seq = 3")
    code, said = await command(database_url, "verify")
    assert (code, "altered" in said, str(identity) in said) == (4, True, True)


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": "Hello", "role": "assistant", "response": "Hi", "timestamp": Timestamp(BEGAN)}, "holds_more"),
        ({"text": "Hello", "ai": "", "timestamp": Timestamp(BEGAN)}, ""),
        ({"content": "", "text": "Hello", "timestamp": Timestamp(BEGAN)}, ""),
        ({"text": "Hello", "timestamp": "0001-01-01T00:00:00+05:00"}, "no_time"),
        ({"text": "Hello", "timestamp": 2**63 - 1}, "no_time"),
        ({"text": "Hello", "timestamp": float("nan")}, "no_time"),
    ],
)
async def test_a_message_is_taken_whole_or_not_at_all(bare: Database, fields: dict[str, Value], code: str):
    report = await migrate(bare, Memory([Document(("messages", "m"), fields)]))
    assert [(item.code, item.count) for item in report.sums] == [(code, 1)]
    assert [row["text"] for row in await rows(bare)] == ([] if code else ["Hello"])


async def test_a_second_reading_is_not_completed_by_the_first(bare: Database):
    await migrate(bare, Memory(predecessor(9)))
    with pytest.raises(ConnectionError):
        await migrate(bare, Memory(predecessor(9), breaks_after=1, fingerprint="2"))
    assert len(await rows(bare, "SELECT * FROM freya_migration.documents WHERE reading = 2")) == 3
    fewer = await migrate(bare, Memory(predecessor(9)[:6], fingerprint="3"))
    assert (fewer.documents, sum(fewer.added.values()), fewer.faults) == (6, 0, [])


async def test_facts_become_freyas_and_the_newer_of_two_holds(bare: Database):
    report = await migrate(bare, Memory(KNOWN))
    assert (report.exit_code, sum(report.added.values()), report.faults) == (3, 6, [])
    assert {(item.outcome, item.code): item.count for item in report.sums} == {
        ("mapped", ""): 6,
        ("rejected", "no_value"): 2,
    }
    found = await rows(
        bare, "SELECT f.*, u.subject AS owner FROM facts f JOIN users u ON u.id = f.user_id ORDER BY said_at"
    )
    assert [(row["statement"], row["status"], row["kind"]) for row in found] == [
        ("Location: Oslo", "superseded", "identity"),
        ("Pets: Momo, Kiki", "active", "relation"),
        ("Location: Skagen", "active", "identity"),
        ("Health: Has diabetes", "pending", "note"),
        ("Plays the \ufffd cello", "active", "note"),
    ]
    assert {row["owner"] for row in found} == {"owner"}
    assert found[2]["supersedes"] == found[0]["id"]
    assert found[2]["said_at"] == datetime.fromtimestamp(BEGAN + 3 * 86_400, UTC)
    assert all("userFacts/" in row["source"] for row in found)
    again = await migrate(bare, Memory(KNOWN))
    assert (sum(again.added.values()), again.faults) == (0, [])
    assert (
        await rows(
            bare, "SELECT f.*, u.subject AS owner FROM facts f JOIN users u ON u.id = f.user_id ORDER BY said_at"
        )
        == found
    )


async def test_a_history_is_not_put_after_words_that_were_said_in_freya(bare: Database):
    await migrate(bare, Memory(KNOWN))
    async with bare.transaction() as connection:
        user: UUID = await connection.fetchval("SELECT id FROM users")
        own = ImportedMessage(uuid4(), "user", "I came before the history", 6, datetime.now(UTC), {})
        await insert_history(connection, user, [ImportedConversation(uuid4(), None, [own], {})])
    with pytest.raises(NotEmpty):
        await migrate(bare, Memory([*predecessor(), *KNOWN], fingerprint="2"))
    assert [row["text"] for row in await rows(bare)] == ["I came before the history"]
    report = await migrate(bare, Memory([*predecessor(), *KNOWN], fingerprint="2"), append=True)
    assert (report.added, report.faults) == ({"message": 8}, [])
    found = await rows(bare)
    assert [row["text"] for row in found][:2] == ["I came before the history", "line \ufffd 0"]
    assert [row["seq"] for row in found] == list(range(1, 10))
    assert all(row["segment"] for row in found)


async def test_a_fact_that_was_altered_or_lost_is_named(bare: Database):
    await migrate(bare, Memory(KNOWN))
    async with bare.transaction() as connection:
        await connection.execute("UPDATE facts SET statement = 'x' WHERE statement = 'Pets: Momo, Kiki'")
        await connection.execute("DELETE FROM facts WHERE statement LIKE 'Plays%'")
    report = await migrate(bare, Memory(KNOWN))
    assert (report.exit_code, sorted(fault.code for fault in report.faults)) == (4, ["altered", "missing"])


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("UPDATE messages SET text = 'x', exact = NULL WHERE seq = 3", "altered"),
        ("UPDATE messages SET said_at = said_at + interval '1 microsecond' WHERE seq = 3", "altered"),
        ("DELETE FROM messages WHERE seq = 3", "missing"),
    ],
)
async def test_verify_names_the_row_that_differs(bare: Database, damage: str, code: str):
    await migrate(bare, Memory(predecessor()))
    identity = (await rows(bare))[2]["id"]
    async with bare.transaction() as connection:
        await connection.execute(damage)
    report = await migrate(bare, Memory(predecessor()))
    assert (report.exit_code, report.faults[0].code) == (4, code)
    assert str(identity) in report.faults[0].row


async def test_topics_are_those_of_the_messages_that_name_them(bare: Database):
    talk = [
        Document(
            ("messages", f"m{n:02}"),
            {
                "role": ("user", "assistant")[n % 2],
                "text": f"line {n}",
                "timestamp": Timestamp(BEGAN + n * 60 + (n // 10) * 86_400),
                "topicIds": ["Pottery"] if n < 10 else ["t2", "unknown"],
            },
        )
        for n in range(20)
    ]
    topics = [
        Document(("topics", "t1"), {"name": "pottery ", "lastUsed": Timestamp(BEGAN), "keywords": ["clay", 7]}),
        Document(("topics", "t2"), {"name": "Sailing", "userId": "owner"}),
        Document(("topics", "t3"), {"name": "Pottery", "userId": "another", "lastUsed": Timestamp(BEGAN)}),
        Document(("topics", "t4"), {"lastUsed": Timestamp(BEGAN)}),
    ]
    report = await migrate(bare, Memory([*talk, *topics]))
    assert (report.exit_code, sum(report.added.values()), report.faults) == (3, 23, [])
    found = await rows(
        bare,
        """SELECT u.subject, t.title, t.keywords, t.first_at, t.last_at, array_agg(s.first_seq ORDER BY s.first_seq)
           FILTER (WHERE s.topic_id IS NOT NULL) AS firsts FROM topics t JOIN users u ON u.id = t.user_id
           LEFT JOIN segments s ON s.user_id = t.user_id AND s.topic_id = t.id GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2""",
    )
    assert [(row["subject"], row["title"], row["keywords"], row["firsts"]) for row in found] == [
        ("another", "Pottery", [], None),
        ("owner", "Sailing", [], [11]),
        ("owner", "pottery", ["clay"], [1]),
    ]
    assert found[2]["last_at"] == datetime.fromtimestamp(BEGAN + 9 * 60, UTC)
    before = await rows(bare, "SELECT * FROM topics ORDER BY id")
    assert sum((await migrate(bare, Memory([*talk, *topics]))).added.values()) == 0
    assert await rows(bare, "SELECT * FROM topics ORDER BY id") == before


async def test_a_rollback_leaves_the_target_as_it_was(bare: Database):
    before = await everything(bare)
    topic = Document(("topics", "t"), {"name": "Lines", "userId": "owner", "lastUsed": Timestamp(BEGAN)})
    await migrate(bare, Memory([*predecessor(), *KNOWN, topic]))
    counts = await rolled_back(bare)
    assert counts == {"messages": 8, "facts": 5, "topics": 1, "conversations": 2, "users": 1}
    assert await everything(bare) == before
    assert await rows(bare, "SELECT 1 FROM freya_migration.documents") == []
    assert sum((await migrate(bare, Memory(predecessor()))).added.values()) == 8


async def test_a_rollback_keeps_what_the_app_made(bare: Database):
    await migrate(bare, Memory([*predecessor(), *KNOWN]))
    async with bare.transaction() as connection:
        user: UUID = await connection.fetchval("SELECT id FROM users")
        own = ImportedMessage(uuid4(), "user", "Words of my own about a cello", 7, datetime.now(UTC), {})
        first, _ = await insert_history(connection, user, [ImportedConversation(uuid4(), None, [own], {})])
        await index_batch(connection, user, after=first - 1)
    [pets] = await rows(bare, "SELECT id FROM facts WHERE statement = 'Pets: Momo, Kiki'")
    await FactService(bare, utc_now).edit(user, pets["id"], Edit(statement="Two cats: Momo and Kiki"))
    counts = await rolled_back(bare)
    assert counts == {"messages": 8, "facts": 4, "edited": 1, "conversations": 2}
    assert [row["text"] for row in await rows(bare)] == ["Words of my own about a cello"]
    assert [row["statement"] for row in await rows(bare, "SELECT * FROM facts")] == ["Two cats: Momo and Kiki"]
    assert [row["first_seq"] for row in await rows(bare, "SELECT * FROM segments")] == [first]
    assert {row["lexeme"] for row in await rows(bare, "SELECT * FROM term_stats")} == {"word", "cello"}
    assert [row["n_messages"] for row in await rows(bare, "SELECT * FROM collection_stats")] == [1]
