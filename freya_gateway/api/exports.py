"""Taking everything out, and in again."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from loguru import logger
from starlette.types import Receive, Scope, Send

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.memory_schemas import ImportedAnswer
from freya_gateway.api.schemas import ExactJson
from freya_gateway.errors import UnsupportedMedia
from freya_gateway.memory.exports import Form

LONGEST_SECONDS: Final = 600.0  # that an export may take to be read
SEND_SECONDS: Final = 15.0  # that a peer may take nothing; below PostgreSQL's patience with an idle transaction
MEDIA_TYPES: Final = {"json": "application/json", "markdown": "text/markdown; charset=utf-8"}
MOST_PROBLEMS: Final = 50  # that are named
SUFFIXES: Final = {"json": "json", "markdown": "md"}

router = APIRouter(prefix="/v1", tags=["export and import"])

EXPORT_ANSWER: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The document, streamed. A connection that is cut before its end has not brought all of it.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {"format": "freya-export", "version": 1, "conversations": [], "messages": [], "facts": []},
            },
            "text/markdown": {"schema": {"type": "string"}, "example": "# Freya's memory of Ana\n"},
        },
    }
}


class Download(Response):
    """A file that is written while it is sent. What fails before the first piece is still answered as a refusal."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], *, media_type: str, filename: str) -> None:
        disposition = {"content-disposition": f'attachment; filename="{filename}"', "cache-control": "no-store"}
        super().__init__(headers=disposition, media_type=media_type)
        del self.headers["content-length"]
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.timeout(LONGEST_SECONDS), aclosing(self._pieces) as pieces:
            first = await anext(pieces)
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            watching = asyncio.create_task(_left(receive))
            try:
                await _send_piece(send, first)
                async for piece in pieces:
                    if watching.done():
                        logger.info("export abandoned by its reader")
                        return
                    await _send_piece(send, piece)
            finally:
                watching.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send_piece(send: Send, piece: bytes) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _left(receive: Receive) -> None:
    """Until the peer is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


@router.get(
    "/export",
    response_class=Response,
    summary="Export everything",
    responses=EXPORT_ANSWER | problem_responses(401, 422, 503),
)
async def export(
    gateway: GatewayState,
    caller: CurrentUser,
    form: Annotated[Form, Query(alias="format", description="json to keep or import, markdown to read.")] = "json",
) -> Download:
    """All that is kept of you, as it is at one moment: settings, messages, facts with their history, topics."""
    filename = f"freya-export-{gateway.now():%Y-%m-%d}.{SUFFIXES[form]}"
    pieces = gateway.exports.document(caller.user_id, form)
    return Download(pieces, media_type=MEDIA_TYPES[form], filename=filename)


FILE: Final = {
    "requestBody": {
        "required": True,
        "description": "A JSON export, at most 64 MiB.",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {"format": "freya-export", "version": 1, "conversations": [], "messages": [], "facts": []},
            }
        },
    }
}


@router.post(
    "/import",
    response_model=ImportedAnswer,
    summary="Import an export",
    openapi_extra=FILE,
    responses=problem_responses(400, 401, 409, 413, 415, 422, 503),
)
async def import_export(
    request: Request,
    gateway: GatewayState,
    caller: CurrentUser,
    *,
    dry_run: Annotated[bool, Query(description="Only tell what would happen; false to do it.")] = True,
) -> ExactJson:
    """Brings a JSON export in: as a restored backup where the account is empty, else as facts to agree to.

    What is imported is marked as such for ever and never learned from. Importing twice changes nothing.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise UnsupportedMedia("unsupported_media_type", "Send JSON, with content-type: application/json.")
    gateway.imports.begin()
    try:
        imported = await gateway.imports.bring_in(caller.user_id, await request.body(), dry_run=dry_run)
    finally:
        gateway.imports.end()
    problems = [asdict(problem) for problem in imported.problems[:MOST_PROBLEMS]]
    return ExactJson(
        ImportedAnswer.model_validate(asdict(imported) | {"problems": problems, "left_out": len(imported.problems)})
    )
