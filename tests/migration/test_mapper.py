"""What a document becomes, for every shape that companion apps keep their data in."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from migration.documents import Document, Reference, Timestamp, Unresolved, Value
from migration.mapper import map_document
from migration.mapping import (
    MappedFact,
    MappedMessage,
    MappedTopic,
    MappingError,
    Policy,
    Rejected,
    Settings,
    Skipped,
    load_mapping,
)

AT = Timestamp(1_700_000_000)
MOMENT = datetime.fromtimestamp(1_700_000_000, UTC)
SAID: dict[str, Value] = {"role": "user", "text": "Hello", "timestamp": AT}
SETTINGS = Settings(mapping=load_mapping(), policy=Policy(owner="owner"))


def settings(mapping: dict[str, Any] | None = None, **policy: Any) -> Settings:
    changed = SETTINGS.mapping.model_copy(update=mapping or {})
    return Settings(mapping=changed, policy=SETTINGS.policy.model_copy(update=policy))


def become(path: str, fields: dict[str, Value], *, by: Settings = SETTINGS) -> list[tuple[str, Any]]:
    pieces = map_document(by, Document(tuple(path.split("/")), fields))
    assert pieces is not None
    return [(piece.pointer, piece.outcome) for piece in pieces]


def one(path: str, fields: dict[str, Value], *, by: Settings = SETTINGS) -> Any:
    [(_, outcome)] = become(path, fields, by=by)
    return outcome


@pytest.mark.parametrize(
    ("path", "owner", "conversation"),
    [
        ("messages/m", "owner", None),
        ("conversations/c/messages/m", "owner", "c"),
        ("users/ana/messages/m", "ana", None),
        ("users/ana/conversations/c/messages/m", "ana", "c"),
        ("users/Ana@Example.com/messages/m", "ana@example.com", None),
    ],
)
def test_paths_say_who_and_which_conversation(path: str, owner: str, conversation: str | None):
    assert one(path, SAID) == MappedMessage(owner, "user", "Hello", MOMENT, conversation)


@pytest.mark.parametrize(
    ("fields", "role"),
    [
        *(({"role": word}, "user") for word in ("user", "USER ", "human", "me", "owner")),
        *(({"role": word}, "assistant") for word in ("assistant", "ai", "model", "bot", "Freya")),
        ({"sender": "bot"}, "assistant"),
        ({"isUser": True}, "user"),
        ({"isUser": False}, "assistant"),
        ({"isBot": True}, "assistant"),
        ({"isBot": False}, "user"),
        ({"type": "human"}, "user"),
        ({"type": "ai"}, "assistant"),
        ({"userId": "ana", "sender": "ana"}, "user"),
        ({"sender": Reference("p", "d", ("users", "owner"))}, "user"),
    ],
)
def test_who_spoke(fields: dict[str, Value], role: str):
    assert one("messages/m", {"text": "Hello", "timestamp": AT, **fields}).role == role


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"content": "Hello"}, "Hello"),
        ({"message": "Hello"}, "Hello"),
        ({"user": "Hello"}, "Hello"),
        ({"text": 42}, "42"),
        ({"text": 1.5}, "1.5"),
        ({"content": "", "text": "Hello"}, "Hello"),
        ({"parts": [{"text": "Hel"}, {"text": "lo"}]}, "Hel\nlo"),
        ({"content": ["Hel", "lo"]}, "Hel\nlo"),
        ({"content": [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": "x"}}]}, "Hello"),
        ({"content": {"parts": [{"text": "Hello"}]}}, "Hello"),
        ({"text": "\x00\ud800 "}, "\x00\ud800 "),
    ],
)
def test_what_was_said(fields: dict[str, Value], text: str):
    assert one("messages/m", {"role": "user", "timestamp": AT, **fields}).text == text


@pytest.mark.parametrize(
    "time",
    [
        {"timestamp": AT},
        {"createdAt": "2023-11-14T22:13:20Z"},
        {"created_at": "2023-11-14T23:13:20+01:00"},
        {"time": "2023-11-14 22:13:20"},
        {"date": 1_700_000_000},
        {"sentAt": 1_700_000_000.0},
        {"timestamp": 1_700_000_000_000},
        {"timestamp": "1700000000000"},
        {"timestamp": {"_seconds": 1_700_000_000, "_nanoseconds": 0}},
        {"timestamp": {"seconds": 1_700_000_000, "nanoseconds": 0}},
        {"timestamp": 0, "createdAt": AT},
        {"timestamp": Unresolved("serverTimestamp"), "createdAt": AT},
        {"timestamp": None, "created": AT},
        {"timestamp": "yesterday", "ts": AT},
    ],
)
def test_when_it_was_said(time: dict[str, Value]):
    assert one("messages/m", {"role": "user", "text": "Hello", **time}).said_at == MOMENT


def test_times_without_a_zone_are_of_the_zone_that_was_named():
    naive: dict[str, Value] = {**SAID, "timestamp": "2023-11-14T23:13:20"}
    stored: dict[str, Value] = {**SAID, "timestamp": Timestamp(1_700_003_600)}
    berlin = settings(zone="Europe/Berlin")
    assert one("messages/m", naive, by=berlin).said_at == MOMENT
    assert one("messages/m", stored, by=berlin).said_at != MOMENT
    assert one("messages/m", stored, by=settings(zone="Europe/Berlin", local_as_utc=True)).said_at == MOMENT
    with pytest.raises(MappingError, match="Europe/Atlantis"):
        settings(zone="Europe/Atlantis").policy.check()


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"text": None}, "no_text"),
        ({"text": ""}, "no_text"),
        ({"text": True}, "no_text"),
        ({"text": float("nan")}, "no_text"),
        ({"text": [{"image": "x"}]}, "no_text"),
        ({"role": "narrator"}, "unknown_role"),
        ({"role": None}, "no_role"),
        ({"timestamp": None}, "no_time"),
        ({"timestamp": {"seconds": 5, "of": "a film"}}, "no_time"),
        ({"timestamp": Unresolved("serverTimestamp")}, "no_time"),
        ({"timestamp": -5}, "no_time"),
        ({"role": "assistant", "response": "Hi"}, "holds_more"),
        ({"userId": "x" * 256}, "bad_owner"),
        ({"userId": "an\x00a"}, "bad_owner"),
    ],
)
def test_what_cannot_be_taken_says_why(fields: dict[str, Value], code: str):
    assert one("messages/m", {**SAID, **fields}) == Rejected(code)
    assert one("messages/m", SAID, by=settings(owner=None)) == Rejected("no_owner")


def test_instructions_and_machinery_are_left():
    assert one("messages/m", {**SAID, "role": "system"}) == Skipped("not_said")
    assert one("messages/m", {"role": "tool", "timestamp": AT}) == Skipped("not_said")


def test_roles_are_inferred_only_when_asked_for():
    assert one("messages/m", {"user": "Hello", "timestamp": AT}, by=settings(infer_roles=True)).role is None


@pytest.mark.parametrize("names", [("user", "ai"), ("text", "response"), ("prompt", "completion")])
def test_a_pair_is_two_messages(names: tuple[str, str]):
    found = become("messages/m", {names[0]: "Hello", names[1]: "Hi", "timestamp": AT})
    assert found == [
        ("user", MappedMessage("owner", "user", "Hello", MOMENT)),
        ("assistant", MappedMessage("owner", "assistant", "Hi", MOMENT)),
    ]
    answer_alone = become("messages/m", {names[1]: "Hi", "timestamp": AT})
    assert answer_alone == [("assistant", MappedMessage("owner", "assistant", "Hi", MOMENT))]


def test_messages_in_a_list_are_each_one():
    messages: list[Value] = [
        {"role": "user", "content": "Hello", "timestamp": AT},
        {"role": "assistant", "content": "Hi"},
        "who?",
        {"role": "system", "content": "Be kind"},
    ]
    found = become("conversations/c", {"userId": "ana", "updatedAt": AT, "messages": messages})
    assert found == [
        ("messages/0", MappedMessage("ana", "user", "Hello", MOMENT, "c")),
        ("messages/1", MappedMessage("ana", "assistant", "Hi", MOMENT, "c")),
        ("messages/2", Rejected("no_role")),
        ("messages/3", Skipped("not_said")),
    ]
    assert one("conversations/c", {"userId": "ana", "messages": []}) == Skipped("parent_of_messages")
    by_key = become("users/ana", {"messages": {"b/2": messages[1], "a": messages[0]}, "updatedAt": AT})
    assert [pointer for pointer, _ in by_key] == ["messages/a", "messages/b~12"]


def test_langchains_sessions_are_messages_of_one_conversation():
    said = [{"type": "human", "data": {"content": "Hello"}}, {"type": "ai", "data": {"content": "Hi"}}]
    messages: list[Value] = [json.dumps(said[0]).encode(), json.dumps(said[1])]
    found = become("ChatHistory/s", {"messages": messages, "user_id": "ana", "createdAt": AT})
    assert found == [
        ("messages/0", MappedMessage("ana", "user", "Hello", MOMENT, "s")),
        ("messages/1", MappedMessage("ana", "assistant", "Hi", MOMENT, "s")),
    ]


def test_a_map_of_facts_is_a_fact_for_each_leaf():
    profile: dict[str, Value] = {
        "name": "Ana",
        "address": {"city": "Oslo"},
        "sister": {"name": "Bea"},
        "likesCats": True,
        "a/b": ["x", 2],
        "empty": "",
        "job": {"value": "cook", "confidence": 0.9, "timestamp": AT},
    }
    memories: list[Value] = [{"content": "Plays the cello", "category": "hobby", "confidence": 0.7, "tags": ["music"]}]
    fields: dict[str, Value] = {
        "displayName": "Ana",
        "updatedAt": AT,
        "profile": profile,
        "interests": ["sailing", "clay"],
        "memories": memories,
        "topics": ["Pottery", {"name": "Sailing", "keywords": ["boat"]}],
    }
    found = dict(become("users/ana", fields))
    assert found == {
        "memories/0": MappedFact("ana", "hobby", "Plays the cello", MOMENT),
        "profile/a~1b": MappedFact("ana", "a/b", "x, 2", MOMENT),
        "profile/address/city": MappedFact("ana", "address city", "Oslo", MOMENT),
        "profile/job": MappedFact("ana", "job", "cook", MOMENT),
        "profile/likesCats": MappedFact("ana", "likesCats", "yes", MOMENT),
        "profile/name": MappedFact("ana", "name", "Ana", MOMENT),
        "profile/sister/name": MappedFact("ana", "sister name", "Bea", MOMENT),
        "interests": MappedFact("ana", "interests", "sailing, clay", MOMENT),
        "topics/0": MappedTopic("ana", "Pottery", (), "", MOMENT),
        "topics/1": MappedTopic("ana", "Sailing", ("boat",), "", MOMENT),
    }
    assert one("users/ana", {"displayName": "Ana"}) == Skipped("user_without_facts")


@pytest.mark.parametrize(
    ("path", "fields", "expected"),
    [
        ("userFacts/f", {"type": "job", "value": "cook", "confidence": 70}, MappedFact("owner", "job", "cook", None)),
        ("users/ana/facts/f", {"key": "city", "value": "Oslo"}, MappedFact("ana", "city", "Oslo", None)),
        ("memories/f", {"content": "Plays", "category": "hobby"}, MappedFact("owner", "hobby", "Plays", None)),
        ("facts/f", {"text": "Plays the cello"}, MappedFact("owner", "", "Plays the cello", None)),
        ("facts/f", {"type": "job", "value": {"a": 1}}, Rejected("no_value")),
        ("topics/t", {"label": "Clay", "keywords": ["kiln"]}, MappedTopic("owner", "Clay", ("kiln",), "", None)),
        ("topics/t", {"embedding": [1.0]}, Rejected("no_title")),
    ],
)  # fmt: skip
def test_facts_and_topics_in_documents_of_their_own(path: str, fields: dict[str, Value], expected: object):
    assert one(path, fields) == expected


def test_spellings_of_a_user_are_one():
    spelled = settings({"owners": {"ana lima": "ana", "ana@example.com": "ana"}})
    for name in ("Ana Lima", " ana lima ", "Ana@Example.com", "ana"):
        assert one("messages/m", {**SAID, "userId": name}, by=spelled).owner == "ana"


def test_a_mapping_file_says_what_is_wrong_with_it(tmp_path: Any):
    file = tmp_path / "mapping.toml"
    for text, said in (("[[collections]]\npaths = 'x'", "collections.0"), ("= 1", "Invalid"), ("a = 1", "collections")):
        file.write_text(text)
        with pytest.raises(MappingError, match=said):
            load_mapping(file)
    with pytest.raises(MappingError, match="No such file"):
        load_mapping(tmp_path / "none.toml")
