"""What becomes of each document, as staging keeps it."""

import json
from uuid import UUID

from freya_gateway.db.messages import storable
from migration import facts, messages, topics
from migration.documents import Document
from migration.mapper import map_document
from migration.mapping import MappedFact, MappedMessage, MappedTopic, Piece, Rejected, Settings
from migration.staging import Decision, id_of


def decide_all(origin: str, settings: Settings, identity: UUID, document: Document) -> list[Decision] | None:
    """A decision for each piece of the document; None where the mapping knows nothing of its collection."""
    pieces = map_document(settings, document)
    if pieces is None:
        return None
    collection = storable(collection_of(document))[0]
    return [_decided(origin, identity, document, place, piece, collection) for place, piece in enumerate(pieces)]


def collection_of(document: Document) -> str:
    """The names of the collections that lead to a document, e.g. `users/messages`."""
    return "/".join(document.path[::2])


def _decided(  # noqa: PLR0913, PLR0917
    origin: str, identity: UUID, document: Document, place: int, piece: Piece, collection: str
) -> Decision:
    row = id_of(origin, document.path, piece.pointer)
    start = (row, identity, place, storable(piece.pointer)[0], collection)
    match outcome := piece.outcome:
        case MappedMessage():
            return Decision(
                *start,
                outcome="mapped",
                kind="message",
                owner=outcome.owner,
                part=None if outcome.conversation is None else json.dumps(outcome.conversation),
                role=outcome.role,
                said_at=outcome.said_at,
                checksum=messages.checksum(outcome.text, outcome.said_at),
                topics=json.dumps([storable(name)[0] for name in outcome.topics]),
            )
        case MappedFact():
            return Decision(
                *start,
                outcome="mapped",
                kind="fact",
                owner=outcome.owner,
                part=facts.slot_of(outcome),
                said_at=outcome.said_at,
                checksum=facts.checksum(facts.statement_of(outcome), outcome.said_at),
            )
        case MappedTopic():
            checksum = topics.checksum(outcome)
            return Decision(
                *start,
                outcome="mapped",
                kind="topic",
                owner=outcome.owner,
                said_at=outcome.last_at,
                checksum=checksum,
            )
        case Rejected():
            return Decision(*start, outcome="rejected", code=outcome.code)
        case _:
            return Decision(*start, outcome="skipped", code=outcome.rule)
