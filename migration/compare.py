"""The source once more, document by document, against what was staged of it."""

from uuid import UUID

from freya_gateway.db.query import Connection
from migration.documents import Source
from migration.progress import Step, Tell
from migration.staging import PATHS, SOURCES, id_of, origin_of, path_of
from migration.values import digest
from migration.verify import Fault


async def compare(connection: Connection, source: Source, tell: Tell) -> list[Fault]:
    """What differs, by path; nothing is written. Raises SourceError."""
    origin, expected, read = origin_of(source), await source.expected(), 0
    faults: list[Fault] = []
    seen: set[UUID] = set()
    async for page in source.pages():
        documents = {id_of(origin, document.path): document for document in page.documents}
        rows = await SOURCES.all(connection, origin=origin, ids=list(documents))
        staged = {row["id"]: row["digest"] for row in rows}
        for identity, document in documents.items():
            if identity not in staged:
                faults.append(Fault("not_staged", "/".join(document.path)))
            elif staged[identity] != digest(document.fields):
                faults.append(Fault("changed_in_source", "/".join(document.path)))
        seen |= documents.keys()
        read += len(documents)
        tell(Step("comparing", read, expected))
    rows = await PATHS.all(connection, origin=origin)
    gone = [path_of(row["path"]) for row in rows if row["id"] not in seen]
    return faults + [Fault("deleted_in_source", "/".join(path)) for path in gone]
