"""What waits meets what holds: a second sighting, an outright word, a one-off request. None may stop the learning."""

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import uuid4
from zoneinfo import ZoneInfo

import msgspec
import pytest

from freya_gateway.db.backup import FORMAT, Backup, BackupAccount, BackupFact
from freya_gateway.db.engine import Database
from freya_gateway.db.facts import Fact
from freya_gateway.memory.deletion import Deletion
from freya_gateway.memory.extraction import SaidMessage, prompt
from freya_gateway.memory.facts import NewFact
from freya_gateway.memory.imports import Imports
from freya_gateway.memory.ledger import MOST_PENDING
from tests.model_server import ModelServer
from tests.remembering import START, Life, living, operation

ROME = NewFact("I live in Rome", slot="home_city", kind="identity", value="Rome")
PARIS = operation(statement="The user lives in Paris.", slot="home_city", kind="identity", value="Paris")
SHORT = operation(statement="The user prefers short answers.", slot="answer_style", kind="preference", explicit=False)


@pytest.fixture
async def life(database: Database, database_url: str, model: ModelServer) -> AsyncIterator[Life]:
    async with living(database, database_url, model) as one:
        yield one


async def statuses(life: Life) -> dict[str, str]:
    return {fact.statement: fact.status for fact in await life.facts("active", "pending", "superseded")}


async def test_an_outright_word_ends_what_a_waiting_fact_contests(life: Life) -> None:
    await life.service.add(life.user_id, ROME)
    await life.told("I live in Paris", PARIS)
    assert await statuses(life) == {"I live in Rome": "active", "The user lives in Paris.": "pending"}
    await life.says("Remember that I live in Paris")
    await life.learn()
    assert await statuses(life) == {"I live in Rome": "superseded", "The user lives in Paris.": "active"}
    await life.says("And I like it.")
    await life.learn()  # goes on


async def test_a_second_sighting_waits_on_where_another_fact_has_the_place(life: Life) -> None:
    hers = operation(
        statement="The user goes by he/him.", slot="pronouns", kind="preference", value="he/him", explicit=False
    )
    await life.told("Could you use he/him for me", hers)
    theirs = NewFact("My pronouns are they/them", slot="pronouns", kind="identity", value="they/them")
    await life.service.add(life.user_id, theirs)
    await life.told("Could you use he/him once more", hers)
    assert await statuses(life) == {"My pronouns are they/them": "active", "The user goes by he/him.": "pending"}


async def test_a_second_sighting_waits_on_where_the_user_has_said_the_same(life: Life) -> None:
    bullets = operation(statement="The user likes bullets.", slot="answer_style", kind="preference", explicit=False)
    await life.told("could you answer in bullets", bullets)
    await life.service.add(life.user_id, NewFact("The user likes bullets.", slot="answer_style", kind="preference"))
    for target in (0, 1):
        await life.told("could you give bullets please", bullets | {"op": "confirm", "target": target})
    assert sorted(fact.status for fact in await life.facts("active", "pending")) == ["active", "pending"]


async def test_a_request_replaces_a_lasting_preference_when_it_is_made_again(life: Life) -> None:
    detailed = operation(
        statement="The user loves detailed answers.", slot="answer_style", kind="preference", value="detailed"
    )
    await life.told("I love long detailed answers", detailed)
    await life.told("Could you keep the answer short", SHORT | {"op": "supersede", "target": 0})
    assert await statuses(life) == {
        "The user loves detailed answers.": "active",
        "The user prefers short answers.": "pending",
    }
    await life.told("Could you be short again", SHORT)
    assert await statuses(life) == {
        "The user loves detailed answers.": "superseded",
        "The user prefers short answers.": "active",
    }


async def test_a_plan_without_end_expires_as_one_without_a_date(life: Life) -> None:
    plan = operation(statement="The user plans to retire.", kind="plan", slot="plan", valid_from="9999-12-31")
    [fact] = await life.told("I plan to retire.", plan)
    assert fact.expires_at == fact.said_at + timedelta(days=30)


async def test_what_the_user_wrote_outlives_a_message_that_said_it_again(life: Life, database: Database) -> None:
    ana = NewFact("The user's sister is called Ana", slot="sister", kind="relation", value="Ana", pinned=True)
    written = await life.service.add(life.user_id, ana)
    again = operation("confirm", target=0, slot="sister", kind="relation", statement=ana.statement, value="Ana")
    await life.told("My sister is called Ana", again)
    assert [fact.confirmations for fact in await life.facts()] == [2]
    deleted = await Deletion(database, life.tick).message(life.user_id, life.ids[-1], with_reply=False)
    assert (deleted.facts, [fact.id for fact in await life.facts()]) == ([], [written.id])


async def test_what_code_left_to_learning_is_learned_beside_what_it_did(life: Life) -> None:
    await life.obey("Remember that I moved house last spring. Remember that my dog is called Rex.")
    moved = operation(
        statement="The user moved house in spring 2026.", kind="event", quote="I moved house last spring", seq=[1]
    )
    found = {fact.statement for fact in await life.learn(moved)}
    assert "The user moved house in spring 2026." in found
    assert len(found) == 2


async def test_a_name_is_forgotten_without_all_that_is_known(life: Life) -> None:
    kept = ["The user's sister is a doctor in Porto.", "The user visits the sister every May.", "The dog is named Rex."]
    for statement in ("The user's sister is called Ana.", *kept):
        await life.service.add(life.user_id, NewFact(statement))
    await life.service.add(life.user_id, NewFact("The user is called Bo.", slot="name", value="Bo"))
    await life.obey("Forget my sister's name")
    assert {fact.statement for fact in await life.facts("active")} == {*kept, "The user is called Bo."}
    await life.obey("Forget my name")
    assert {fact.statement for fact in await life.facts("active")} == {*kept}


async def test_imported_facts_wait_for_the_user_however_many_they_are(life: Life, database: Database) -> None:
    await life.says("Hello there")
    stamps = tuple(
        BackupFact(
            Fact(id=uuid4(), subject="user", slot="note", kind="note", statement=f"The user collects stamp {n}.",
                 n_tokens=5, said_at=START, created_at=START), (), ()
        )
        for n in range(MOST_PENDING + 50)
    )  # fmt: skip
    account = BackupAccount(None, "UTC", memory_paused=False, memory_key=uuid4())
    backup = Backup(FORMAT, 1, START, account, (), (), stamps, (), (), ())
    imported = await Imports(database, life.tick).bring_in(life.user_id, msgspec.json.encode(backup), dry_run=False)
    await life.told("I live in Paris", PARIS)
    assert (imported.pending, len(await life.facts("pending"))) == (MOST_PENDING + 50, MOST_PENDING + 50)


def test_a_secret_across_the_end_of_what_is_shown_is_masked() -> None:
    key = "sk-proj-" + "A1b2" * 8
    message = SaidMessage(uuid4(), 1, "user", "x " * 1992 + key, START, True)
    assert "sk-proj-" not in prompt([message], [], zone=ZoneInfo("UTC"))[1].content
