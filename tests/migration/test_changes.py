"""What a later run does: the source, the mapping, or Freya has changed since."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from freya_gateway.clock import utc_now
from freya_gateway.db.engine import Database
from freya_gateway.db.imports import ImportedConversation, ImportedMessage, insert_history
from freya_gateway.memory.deletion import Deletion
from freya_gateway.memory.facts import Edit, FactService
from freya_gateway.memory.indexing import index_batch
from migration.documents import Document, Timestamp, Value
from migration.mapping import load_mapping
from migration.pipeline import Changes
from tests.migration.memory import BEGAN, Memory, everything, fact, migrate, rolled_back, rows

TEXTS = "SELECT role, text, said_at, conversation_id FROM messages ORDER BY seq"


def said(n: int, text: str | None = None, **fields: Value) -> Document:
    role = ("user", "assistant")[n % 2]
    told: dict[str, Value] = {"role": role, "text": text or f"line {n}", "timestamp": Timestamp(BEGAN + n * 60)}
    return Document(("conversations", f"c{n // 5}", "messages", f"m{n:03}"), told | fields)


HISTORY = [said(n) for n in range(20)]
# Five deleted, five changed, five added, of which two lie between others.
LATER = [
    *(said(n) for n in range(5, 10)),
    *(said(n, f"changed {n}") for n in range(10, 15)),
    *(said(n) for n in (*range(15, 20), *range(20, 23))),
    Document(
        ("conversations", "c1", "messages", "x1"),
        {**said(6).fields, "text": "between", "timestamp": Timestamp(BEGAN + 361)},
    ),
    Document(
        ("conversations", "c1", "messages", "x2"),
        {**said(7).fields, "text": "between too", "timestamp": Timestamp(BEGAN + 421)},
    ),
]


async def say(database: Database, text: str = "Words of my own about a cello") -> UUID:
    """A message in Freya; the user."""
    async with database.transaction() as connection:
        user: UUID = await connection.fetchval("SELECT id FROM users ORDER BY subject = 'owner' DESC")
        own = ImportedMessage(uuid4(), "user", text, 7, datetime.now(UTC), {})
        first, _ = await insert_history(connection, user, [ImportedConversation(uuid4(), None, [own], {})])
        await index_batch(connection, user, after=first - 1)
        await connection.execute("UPDATE memory_work SET done_seq = $1 WHERE user_id = $2", first, user)
    return user


def without_moments(found: dict[str, list[dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """What two runs into two databases have in common: not who, and not when it was written."""
    lasting = ("user_id", "created_at", "updated_at", "memory_key", "epoch", "last_run_at", "at")
    return {
        table: sorted(
            ({key: value for key, value in row.items() if key not in lasting and (table != "users" or key != "id")}
             for row in rows if table != "fact_events"),
            key=str,
        )
        for table, rows in found.items() if table not in ("segments", "topics")
    }  # fmt: skip


async def fresh(database: Database, documents: list[Document]) -> dict[str, list[dict[str, Any]]]:
    """What one undisturbed run of these documents leaves."""
    await rolled_back(database)
    report = await migrate(database, Memory(documents))
    assert report.exit_code == 0
    return without_moments(await everything(database))


async def test_what_changed_in_the_source_comes_over_exactly(bare: Database):
    await migrate(bare, Memory(HISTORY))
    report = await migrate(bare, Memory(LATER, fingerprint="2"))
    assert report.source == Changes(added=5, changed=5, deleted=5)
    assert (report.added, report.changed, report.removed) == ({"message": 5}, {"message": 5}, {"message": 5})
    assert (report.exit_code, report.faults) == (0, [])
    assert [row["text"] for row in await rows(bare, TEXTS)] == [
        "line 5", "line 6", "between", "line 7", "between too", "line 8", "line 9",
        *(f"changed {n}" for n in range(10, 15)), *(f"line {n}" for n in range(15, 23)),
    ]  # fmt: skip
    found = without_moments(await everything(bare))
    assert found == await fresh(bare, LATER)
    assert [row["seq"] for row in await rows(bare)] == list(range(1, 21))
    again = await migrate(bare, Memory(LATER))
    assert (again.added, again.changed, again.removed, again.exit_code) == ({}, {}, {}, 0)


async def test_a_rollback_after_changes_leaves_what_the_app_made(bare: Database):
    before = await everything(bare)
    facts = [fact("a", 1, type="pets", value="Momo"), fact("b", 1, type="location", value="Oslo")]
    await migrate(bare, Memory([*HISTORY, *facts]))
    await migrate(bare, Memory([*LATER, fact("b", 2, type="location", value="Skagen")], fingerprint="2"))
    await rolled_back(bare)
    assert await everything(bare) == before
    await migrate(bare, Memory(HISTORY))
    await say(bare)
    await migrate(bare, Memory(LATER, fingerprint="2"))
    await rolled_back(bare)
    assert [row["text"] for row in await rows(bare)] == ["Words of my own about a cello"]
    assert {row["lexeme"] for row in await rows(bare, "SELECT * FROM term_stats")} == {"word", "cello"}


async def test_what_changed_after_words_in_freya_is_changed_in_its_place(bare: Database):
    await migrate(bare, Memory(HISTORY))
    before = await rows(bare)
    await say(bare)
    report = await migrate(bare, Memory(LATER, fingerprint="2"))
    assert (report.added, report.changed, report.removed) == ({"message": 5}, {"message": 5}, {"message": 5})
    assert (report.exit_code, report.faults) == (0, [])
    found = await rows(bare)
    assert [row["text"] for row in found] == [
        *(f"line {n}" for n in range(5, 10)), *(f"changed {n}" for n in range(10, 15)),
        *(f"line {n}" for n in range(15, 20)), "Words of my own about a cello",
        "between", "between too", "line 20", "line 21", "line 22",
    ]  # fmt: skip
    assert found[0] == before[5]
    assert {row["id"]: row["seq"] for row in before if row["seq"] > 5}.items() <= {
        row["id"]: row["seq"] for row in found
    }.items()
    [stats] = await rows(bare, "SELECT n_messages, n_terms FROM collection_stats")
    [counted] = await rows(bare, "SELECT count(*) AS n_messages, sum(length(tsv)) AS n_terms FROM messages")
    assert stats == counted
    terms = await rows(bare, "SELECT lexeme, n_messages FROM term_stats ORDER BY 1")
    assert terms == await rows(
        bare, "SELECT w.lexeme, count(*)::int AS n_messages FROM messages m, unnest(m.tsv) w GROUP BY 1 ORDER BY 1"
    )


async def test_a_late_first_message_moves_no_other_after_words_in_freya(bare: Database):
    talk = [
        Document(("messages", f"m{n}"), {"role": "user", "text": f"line {n}", "timestamp": Timestamp(BEGAN + n * 60)})
        for n in range(6)
    ]
    await migrate(bare, Memory(talk[1:5]))
    before = await rows(bare)
    await say(bare)
    changed = Document(talk[2].path, {**talk[2].fields, "text": "changed"})
    report = await migrate(bare, Memory([*talk[:2], changed, *talk[3:]], fingerprint="2"))
    assert (report.added, report.changed, report.faults) == ({"message": 2}, {"message": 1}, [])
    found = await rows(bare)
    assert [row["text"] for row in found] == [
        "line 1", "changed", "line 3", "line 4", "Words of my own about a cello", "line 0", "line 5",
    ]  # fmt: skip
    assert [row["conversation_id"] for row in found[:4]] == [row["conversation_id"] for row in before]
    again = await migrate(bare, Memory([*talk[:2], changed, *talk[3:]], fingerprint="2"))
    assert (again.added, again.changed, again.removed) == ({}, {}, {})


async def test_only_what_a_mapping_changes_is_changed(bare: Database):
    odd = said(3, "odd one", role="narrator")
    documents = [*HISTORY[:3], odd, *HISTORY[4:], fact("a", 1, type="pets", value="Momo")]
    report = await migrate(bare, Memory(documents))
    assert (report.exit_code, report.added) == (3, {"message": 19, "fact": 1})
    before = {row["id"]: row for row in await rows(bare)}
    facts = await rows(bare, "SELECT * FROM facts")
    mapping = load_mapping()
    told = mapping.model_copy(
        update={"roles": {**mapping.roles, "assistant": (*mapping.roles["assistant"], "narrator")}}
    )
    report = await migrate(bare, Memory(documents), mapping=told)
    assert (report.exit_code, report.added, report.changed, report.removed) == (0, {"message": 1}, {}, {})
    found = await rows(bare)
    assert [row["text"] for row in found] == [
        *(f"line {n}" for n in range(3)),
        "odd one",
        *(f"line {n}" for n in range(4, 20)),
    ]
    moved = ("seq", "segment")
    for row in found:
        if row["text"] != "odd one":
            assert {k: v for k, v in row.items() if k not in moved} == {
                k: v for k, v in before[row["id"]].items() if k not in moved
            }
    assert await rows(bare, "SELECT * FROM facts") == facts
    later = await migrate(bare, Memory(documents), mapping=told, zone="Europe/Berlin", local_as_utc=True)
    assert (later.exit_code, later.changed) == (0, {"message": 20, "fact": 1})
    assert (await rows(bare))[0]["said_at"] == datetime.fromtimestamp(BEGAN, UTC) - timedelta(hours=1)


async def test_what_belongs_to_another_user_now_moves_there(bare: Database):
    documents = [
        *(Document(("messages", f"m{n}"), {**said(n).fields, "userId": ("Ana", "ana lima")[n % 2]}) for n in range(6)),
        Document(("userFacts", "f"), {"type": "pets", "value": "Momo", "userId": "ana lima"}),
        Document(("topics", "t"), {"name": "Clay", "userId": "ana lima"}),
    ]
    await migrate(bare, Memory(documents))
    owners = {"ana": "ana lima", "ana lima": "Ana"}  # they change places
    mapping = load_mapping().model_copy(update={"owners": owners})
    report = await migrate(bare, Memory(documents), mapping=mapping)
    assert (report.exit_code, report.faults) == (0, [])
    whose = "SELECT u.subject, array_agg(t.{} ORDER BY 1) AS what FROM {} t JOIN users u ON u.id = t.user_id GROUP BY 1"
    assert {row["subject"]: row["what"] for row in await rows(bare, whose.format("text", "messages"))} == {
        "ana lima": ["line 0", "line 2", "line 4"],
        "Ana": ["line 1", "line 3", "line 5"],
    }
    assert [row["subject"] for row in await rows(bare, whose.format("statement", "facts"))] == ["Ana"]
    assert [row["subject"] for row in await rows(bare, whose.format("title", "topics"))] == ["Ana"]


RENAME = """UPDATE topics SET title = 'Mine', source = source || '{"title": "user"}' WHERE title = 'Clay 0'"""


async def test_what_was_edited_or_deleted_in_freya_stays_so_and_is_told(bare: Database):
    facts = [fact("a", 1, type="pets", value="Momo"), fact("b", 1, type="food", value="Soup")]
    topics = [Document(("topics", f"t{n}"), {"name": f"Clay {n}"}) for n in range(3)]
    await migrate(bare, Memory([*HISTORY, *facts, *topics]))
    [user] = await rows(bare, "SELECT id FROM users")
    [momo] = await rows(bare, "SELECT id FROM facts WHERE statement = 'Pets: Momo'")
    await FactService(bare, utc_now).edit(user["id"], momo["id"], Edit(statement="Two cats: Momo and Kiki"))
    message = (await rows(bare))[12]
    await Deletion(bare, utc_now).message(user["id"], message["id"], with_reply=False)
    async with bare.transaction() as connection:
        await connection.execute(RENAME)
    changed = [
        *(said(n, f"changed {n}" if n == 12 else None) for n in range(20)),
        fact("a", 1, type="pets", value="Rex"), fact("b", 1, type="food", value="Cake"),
        Document(("topics", "t0"), {"name": "Kiln"}), Document(("topics", "t1"), {"name": "Glaze"}),
    ]  # fmt: skip
    report = await migrate(bare, Memory(changed, fingerprint="2"))
    [kiln] = await rows(bare, "SELECT id FROM topics WHERE title = 'Mine'")
    assert sorted(report.kept) == sorted([f"message {message['id']}", f"fact {momo['id']}", f"topic {kiln['id']}"])
    assert (report.changed, report.removed) == ({"fact": 1, "topic": 1}, {"topic": 1})
    assert "changed 12" not in [row["text"] for row in await rows(bare)]
    assert {row["statement"] for row in await rows(bare, "SELECT statement FROM facts WHERE status = 'active'")} == {
        "Two cats: Momo and Kiki", "Food: Cake",
    }  # fmt: skip
    assert {row["title"] for row in await rows(bare, "SELECT title FROM topics")} == {"Mine", "Glaze"}
    again = await migrate(bare, Memory(changed, fingerprint="2"))
    assert (again.added, again.changed, again.removed) == ({}, {}, {})


async def test_of_facts_in_a_slot_the_newer_holds_whenever_it_comes(bare: Database):
    oslo, skagen = fact("a", 5, type="location", value="Oslo"), fact("b", 3, type="location", value="Skagen")
    other = fact("c", 1, type="pets", value="Momo")
    await migrate(bare, Memory([oslo, other]))
    kept = await rows(bare, "SELECT * FROM facts WHERE statement = 'Pets: Momo'")
    statuses = "SELECT statement, status FROM facts ORDER BY said_at"
    await migrate(bare, Memory([oslo, skagen, other], fingerprint="2"))
    assert [tuple(row.values()) for row in await rows(bare, statuses)][1:] == [
        ("Location: Skagen", "superseded"),
        ("Location: Oslo", "active"),
    ]
    report = await migrate(bare, Memory([skagen, other], fingerprint="3"))
    assert report.removed == {"fact": 1}
    assert [tuple(row.values()) for row in await rows(bare, statuses)][1:] == [("Location: Skagen", "active")]
    assert await rows(bare, "SELECT * FROM facts WHERE statement = 'Pets: Momo'") == kept


async def test_roles_go_on_taking_turns_when_more_comes(bare: Database):
    def flat(count: int) -> list[Document]:
        return [
            Document(("messages", f"m{n}"), {"user": f"line {n}", "timestamp": Timestamp(BEGAN + n)})
            for n in range(count)
        ]

    await migrate(bare, Memory(flat(3)))
    await migrate(bare, Memory(flat(6), fingerprint="2"))
    found = await rows(bare)
    assert [row["role"] for row in found] == ["user", "assistant"] * 3
    assert len({row["conversation_id"] for row in found}) == 1


async def test_all_of_a_document_with_many_messages_comes_over(bare: Database):
    messages: list[Value] = [{"role": ("user", "ai")[n % 2], "content": f"line {n}"} for n in range(3000)]
    document = Document(("conversations", "c"), {"messages": messages, "createdAt": Timestamp(BEGAN), "title": "All"})
    report = await migrate(bare, Memory([document]))
    assert (report.exit_code, report.documents, report.added) == (0, 1, {"message": 3000})
    assert [row["text"] for row in await rows(bare)] == [f"line {n}" for n in range(3000)]
    assert [row["title"] for row in await rows(bare, "SELECT title FROM conversations")] == ["All"]
    [largest] = await rows(bare, "SELECT max(length(source::text)) AS n FROM messages")
    assert largest["n"] < 500
    bad = Document(
        ("conversations", "c"), {**document.fields, "messages": [*messages[:2], {"role": "x", "content": "y"}]}
    )
    report = await migrate(bare, Memory([bad], fingerprint="2"))
    assert [(item.outcome, item.code, item.count) for item in report.sums] == [("rejected", "unknown_role", 1)]
    assert (report.exit_code, report.removed) == (3, {"message": 2998})


DAMAGE: dict[str, str] = {
    "not_in_a_segment": "UPDATE messages SET segment = NULL WHERE seq = 3",
    "seq_missing": "UPDATE messages SET seq = 99, segment = 99 WHERE seq = 3",
    "conversation_times": "UPDATE conversations SET last_message_at = started_at - interval '1 second'",
    "not_counted": "UPDATE collection_stats SET n_messages = 7",
    "altered": """UPDATE messages SET conversation_id = (SELECT id FROM conversations ORDER BY started_at LIMIT 1)
                  WHERE seq = 20""",
    "surplus": """INSERT INTO freya_migration.loaded
                  SELECT origin, gen_random_uuid(), kind, user_id, owner, part, role, checksum, digest
                  FROM freya_migration.loaded WHERE kind = 'message' LIMIT 1""",
}  # fmt: skip


@pytest.mark.parametrize("code", DAMAGE)
async def test_what_does_not_hold_of_a_memory_is_named(bare: Database, code: str):
    source = Memory(HISTORY)
    await migrate(bare, source)
    async with bare.transaction() as connection:
        await connection.execute(DAMAGE[code])
    report = await migrate(bare, source) if code != "surplus" else await verified(bare)
    assert report.exit_code == 4
    assert code in {fault.code for fault in report.faults}


async def verified(database: Database) -> Any:
    from migration import pipeline, staging

    async with database.reading() as connection:
        [run] = await staging.runs(connection)
    return await pipeline.report(database, run.origin, run.settings)


async def test_checksums_of_both_sides_are_equal_until_a_row_differs(bare: Database):
    await migrate(bare, Memory([*HISTORY, fact("a", 1, type="pets", value="Momo")]))
    report = await verified(bare)
    assert [(item.table, item.rows) for item in report.checksums] == [("facts", 1), ("messages", 20)]
    assert all(item.staged == item.target for item in report.checksums)
    async with bare.transaction() as connection:
        await connection.execute("UPDATE messages SET text = text || '.' WHERE seq = 3")
    [_, messages] = (await verified(bare)).checksums
    assert messages.staged != messages.target
