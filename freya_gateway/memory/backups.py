"""Reads an export that comes back, and believes nothing of it that it cannot check.

A file can come from anywhere: its texts are data, its counts and sightings are not taken over, a quote must stand in
the message that it is said to be from. What is wrong is left out and named with its place; what is no export at all
is refused.
"""

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID
from zoneinfo import available_timezones

import msgspec

from freya_gateway.db.backup import Backup, BackupAccount, BackupFact, BackupMessage, BackupTopic
from freya_gateway.db.imports import ImportedConversation, ImportedMessage
from freya_gateway.db.messages import storable
from freya_gateway.errors import BadRequest, Invalid
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.memory.backup_facts import CONTROL, LONGEST_NAME, believable

FIRST_DAY: Final = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD: Final = timedelta(days=1)  # that a clock elsewhere may be wrong
MOST_FACTS: Final = 10_000
PLACE: Final = re.compile(r"^(?P<problem>.*?)(?: - at `\$\.?(?P<place>.*)`)?$", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that was left out: where in the file, and why."""

    place: str
    problem: str


@dataclass(slots=True)
class Checked:
    """What of a file can be brought in."""

    source: dict[str, Any]  # the mark that all of it carries for ever
    account: BackupAccount
    conversations: Sequence[ImportedConversation] = ()
    grouped: dict[UUID, str] = field(default_factory=dict[UUID, str])
    seqs: Sequence[int] = ()  # of the messages in the order of the conversations, as they were in the file
    facts: Sequence[BackupFact] = ()
    topics: Sequence[BackupTopic] = ()
    spans: Sequence[tuple[int, int, UUID]] = ()  # first seq, last seq, topic
    tombstones: Sequence[bytes] = ()
    problems: list[Problem] = field(default_factory=list[Problem])

    def topic_of(self, seq: int) -> UUID | None:
        """The topic of the message that had this seq in the file."""
        place = bisect_right(self.spans, seq, key=lambda span: span[0]) - 1
        return self.spans[place][2] if place >= 0 and seq <= self.spans[place][1] else None

    def leave_out(self, place: str, problem: str) -> None:
        self.problems.append(Problem(place, problem))


def read(body: bytes, *, now: datetime) -> Checked:
    """What `body`, an export as JSON, holds. Raises BadRequest or Invalid where it is none."""
    backup = _decoded(body)
    source = {"import": {"format": backup.format, "exported_at": _iso(backup.exported_at), "imported_at": _iso(now)}}
    checked = Checked(source=source, account=_account(backup.account))
    said = _messages(backup, checked, now)
    _conversations(backup, checked, said)
    if len(backup.facts) > MOST_FACTS:
        raise Invalid("bad_export", f"The file has more than {MOST_FACTS} facts; that is no export of this gateway.")
    spoken = {message.id: message for messages in said.values() for _, message in messages}
    checked.facts = believable(backup.facts, spoken, leave_out=checked.leave_out)
    _topics(backup, checked)
    checked.tombstones = [bytes.fromhex(digest) for digest in dict.fromkeys(backup.tombstones)]
    return checked


def _decoded(body: bytes) -> Backup:
    try:
        return msgspec.json.decode(body, type=Backup)
    except msgspec.ValidationError as error:
        match = PLACE.match(str(error))
        place, problem = (match["place"] or "body", match["problem"]) if match else ("body", "")
        # What msgspec quotes comes from the file; places are names and numbers.
        fields_ = [{"field": place, "problem": re.sub(r"'.*'", "that", problem)}]
        raise Invalid(
            "bad_export", "The file is no export of version 1; `errors` says where.", fields=fields_
        ) from None
    except (msgspec.DecodeError, RecursionError):
        raise BadRequest("bad_json", "The body cannot be read as JSON in UTF-8.") from None


def _account(account: BackupAccount) -> BackupAccount:
    """The settings, those that cannot be as if they had not been made."""
    name = account.display_name
    if name is not None and (not name.strip() or len(name) > LONGEST_NAME or CONTROL.search(name)):
        name = None
    zone = account.time_zone if account.time_zone in available_timezones() else "UTC"
    return replace(account, display_name=name, time_zone=zone)


Said = dict[UUID, list[tuple[int, BackupMessage]]]  # conversation -> (seq, message), in order


def _messages(backup: Backup, checked: Checked, now: datetime) -> Said:
    """The messages that can be believed, with their exact texts."""
    said: Said = {conversation.id: [] for conversation in backup.conversations}
    ids: set[UUID] = set()
    seqs: set[int] = set()
    for place, message in enumerate(backup.messages):
        exact = _exact(message)
        if message.id in ids or message.seq in seqs:
            checked.leave_out(f"messages[{place}]", "its id or seq stands there before")
        elif message.conversation not in said:
            checked.leave_out(f"messages[{place}].conversation", "there is no such conversation")
        elif not FIRST_DAY <= message.said_at <= now + AHEAD:
            checked.leave_out(f"messages[{place}].said_at", "before 1970 or in the future")
        elif exact is None:
            checked.leave_out(f"messages[{place}].exact", "is not the exact form of the text")
        else:
            ids.add(message.id)
            seqs.add(message.seq)
            said[message.conversation].append((message.seq, replace(message, text=exact)))
    for messages in said.values():
        messages.sort(key=lambda one: one[0])
    return said


def _exact(message: BackupMessage) -> str | None:
    """What was said, to the character; None if `exact` is something else."""
    if message.exact is None:
        return message.text
    try:
        exact = json.loads(message.exact)
    except ValueError:
        return None
    return exact if isinstance(exact, str) and storable(exact)[0] == message.text else None


def _conversations(backup: Backup, checked: Checked, said: Said) -> None:
    """The conversations that hold something, in the order in which they began."""
    found: dict[UUID, ImportedConversation] = {}
    for place, conversation in enumerate(backup.conversations):
        if conversation.id in found:
            checked.leave_out(f"conversations[{place}].id", "stands there before")
        elif said[conversation.id]:
            messages = [_imported(message, checked.source) for _, message in said[conversation.id]]
            title = conversation.title and _plain(conversation.title)
            found[conversation.id] = ImportedConversation(conversation.id, title, messages, checked.source)
            checked.grouped[conversation.id] = conversation.grouped
    checked.conversations = sorted(found.values(), key=lambda one: said[one.id][0][0])
    checked.seqs = [seq for conversation in checked.conversations for seq, _ in said[conversation.id]]


def _imported(message: BackupMessage, source: dict[str, Any]) -> ImportedMessage:
    n_tokens = count_tokens(message.text)
    return ImportedMessage(message.id, message.role, message.text, n_tokens, message.said_at, source)


def _topics(backup: Backup, checked: Checked) -> None:
    kept: dict[UUID, BackupTopic] = {}
    for place, topic in enumerate(backup.topics):
        if topic.id in kept or not topic.title.strip() or CONTROL.search(topic.title):
            checked.leave_out(f"topics[{place}]", "its id stands there before, or its title is not one line")
        else:
            keywords = tuple(_plain(keyword) for keyword in topic.keywords)
            kept[topic.id] = replace(topic, keywords=keywords, summary=_plain(topic.summary))
    links = {topic.id: topic.continues if topic.continues in kept else None for topic in kept.values()}
    checked.topics = [replace(topic, continues=links[topic.id]) for topic in kept.values()]
    spans = [(one.first_seq, one.last_seq, one.topic) for one in backup.segments if one.topic and one.topic in kept]
    checked.spans = sorted(spans)


def _plain(text: str) -> str:
    """`text` as PostgreSQL can hold it."""
    return storable(text)[0]


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
