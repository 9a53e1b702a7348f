"""What a source holds and what would become of it, without a database: collections, fields, types, outcomes."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from migration.decisions import collection_of
from migration.documents import Document, GeoPoint, Loss, Reference, Source, Timestamp, Unresolved, Value, Vector
from migration.mapper import map_document, rule_of
from migration.mapping import Kind, MappedFact, MappedMessage, MappedTopic, Mapping, Rejected, Settings, Skipped
from migration.progress import Step, Tell

MOST_FIELDS = 200  # of a collection; a map with ids for keys has no end
ISO = re.compile(r"\d{4}-\d\d-\d\dT?[ \d:.,]*(?P<zone>Z|[+-]\d\d:?\d\d)?")
TYPES: Sequence[tuple[type, str]] = (
    (bool, "boolean"), (int, "integer"), (float, "double"), (bytes, "bytes"), (Timestamp, "timestamp"),
    (GeoPoint, "point"), (Reference, "reference"), (Vector, "vector"), (Unresolved, "unresolved"), (list, "list"),
    (dict, "map"), (type(None), "null"),
)  # fmt: skip
KINDS: dict[type, Kind] = {MappedMessage: "message", MappedFact: "fact", MappedTopic: "topic"}


@dataclass(slots=True)
class Found:
    """A collection: `documents`, `fields` by name and type, `outcomes` of what lies in the documents, the `rule` of the
    mapping that fits; empty where none does: the run would stop."""

    documents: int = 0
    rule: str = ""
    fields: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter[str]))
    outcomes: Counter[str] = field(default_factory=Counter[str])
    looks_like: str = ""  # where no rule fits


@dataclass(frozen=True, slots=True)
class Inspection:
    """`expected`: documents by the source's own count."""

    kind: str
    origin: str
    expected: int | None
    collections: dict[str, Found]
    losses: Sequence[Loss]

    @property
    def documents(self) -> int:
        return sum(found.documents for found in self.collections.values())


async def inspect(source: Source, settings: Settings, tell: Tell) -> Inspection:
    """Reads the source to its end; each document is one read of Firestore's bill. Raises SourceError."""
    collections: defaultdict[str, Found] = defaultdict(Found)
    expected, read = await source.expected(), 0
    async for page in source.pages():
        for document in page.documents:
            _look(collections[collection_of(document)], document, settings)
        read += len(page.documents)
        tell(Step("inspecting", read, expected))
    for found in collections.values():
        found.looks_like = "" if found.rule else guess(found, settings.mapping)
    origin = f"{source.project}/{source.database}"
    return Inspection(source.kind, origin, expected, dict(sorted(collections.items())), source.losses())


def _look(found: Found, document: Document, settings: Settings) -> None:
    found.documents += 1
    found.rule = rule_of(settings, document)
    for name, value in document.fields.items():
        if name in found.fields or len(found.fields) < MOST_FIELDS:
            found.fields[name][type_of(value)] += 1
    for piece in map_document(settings, document) or ():
        match outcome := piece.outcome:
            case Rejected():
                found.outcomes[f"rejected: {outcome.code}"] += 1
            case Skipped():
                found.outcomes[f"skipped: {outcome.rule}"] += 1
            case _:
                found.outcomes[KINDS[type(outcome)]] += 1


def guess(found: Found, mapping: Mapping) -> str:
    """The kind that a collection without a rule looks like, by the names of its fields; empty where like none."""
    names = set(found.fields)
    for kind in KINDS.values():
        rule = mapping.reading(kind)
        telling = {"message": (rule.text, rule.time), "fact": (rule.value, rule.slot), "topic": (rule.title, rule.time)}
        if all(names & {*candidates} for candidates in telling[kind]):
            return kind
    return ""


def type_of(value: Value) -> str:
    """The type's name; of a text that is a time, whether it has a zone."""
    if isinstance(value, str):
        time = ISO.fullmatch(value.strip())
        return "text" if time is None else "time as text" if time["zone"] else "time as text, without a zone"
    return next((name for kind, name in TYPES if isinstance(value, kind)), type(value).__name__)
