"""Reads a source to its end, in a form that can be compared: NaN equals NaN, -0.0 is not 0.0, 1 is not 1.0."""

from typing import Any

from migration.documents import Document, Source, Value

Read = dict[tuple[str, ...], Any]


async def documents(source: Source, *, after: str | None = None) -> list[Document]:
    try:
        return [document async for page in source.pages(after) for document in page.documents]
    finally:
        await source.aclose()


async def fields(source: Source) -> Read:
    return {document.path: exact(document.fields) for document in await documents(source)}


def exact(value: Value) -> Any:
    if isinstance(value, dict):
        return {key: exact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [exact(inner) for inner in value]
    return type(value).__name__, repr(value)
