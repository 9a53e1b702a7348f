"""How the gateway is, for those who run it: alive, ready, in figures. Outside /v1: no part of the wire's promise."""

import asyncio
from functools import lru_cache
from typing import Annotated, Literal

from fastapi import APIRouter, Header, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from freya_gateway.api.dependencies import GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.state import Gateway
from freya_gateway.db.engine import FAILURES
from freya_gateway.db.revision import read_revision
from freya_gateway.db.schema import SchemaState, schema_state
from freya_gateway.errors import Unavailable

CHECK_SECONDS = 3.0

router = APIRouter(tags=["health"])


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Checks(BaseModel):
    """What readiness depends on. `migrations`: the database's tables beside those that this version needs."""

    database: Literal["ok", "unavailable"]
    migrations: SchemaState | Literal["unknown"]
    sends: Literal["accepted", "draining"]

    @property
    def passed(self) -> bool:
        return (self.database, self.migrations, self.sends) == ("ok", "current", "accepted")


class Readiness(BaseModel):
    """Whether requests should be sent here, and if not, why."""

    status: Literal["ready", "unready"]
    checks: Checks


UNREADY_EXAMPLE = {"status": "unready", "checks": {"database": "ok", "migrations": "behind", "sends": "accepted"}}
UNREADY = {
    "model": Readiness,
    "description": "Not ready",
    "content": {"application/json": {"example": UNREADY_EXAMPLE}},
}
METRICS_ANSWER = {
    200: {
        "description": "Prometheus' text format.",
        "content": {CONTENT_TYPE_LATEST: {"schema": {"type": "string"}, "example": "freya_open_streams 12.0\n"}},
    }
}


@router.get("/healthz", summary="Is it alive?")
async def healthz() -> Alive:
    """Answers as long as the process does, and asks nobody else: for a platform that restarts what is silent."""
    return Alive()


@router.get("/readyz", summary="Is it ready?", responses={503: UNREADY})
async def readyz(gateway: GatewayState, response: Response) -> Readiness:
    """Ready with a database that answers and has this version's tables, until SIGTERM."""
    database, migrations = await _look(gateway)
    sends = "draining" if gateway.draining else "accepted"
    checks = Checks(database=database, migrations=migrations, sends=sends)
    response.status_code = 200 if checks.passed else 503
    return Readiness(status="ready" if checks.passed else "unready", checks=checks)


@router.get(
    "/metrics",
    summary="The figures",
    response_class=Response,
    responses=METRICS_ANSWER | problem_responses(401, 403, 503),
)
async def metrics(
    request: Request,
    gateway: GatewayState,
    _authorization: Annotated[
        str | None, Header(alias="authorization", description="Any user's, where one has to sign in.")
    ] = None,
) -> Response:
    """The figures of this process for Prometheus. No user, turn or word is among them."""
    await gateway.authenticator.authenticate(request.headers)
    return Response(generate_latest(gateway.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _look(gateway: Gateway) -> tuple[Literal["ok", "unavailable"], SchemaState | Literal["unknown"]]:
    try:
        async with asyncio.timeout(CHECK_SECONDS), gateway.database.reading() as connection:
            revision = await read_revision(connection)
    except (Unavailable, *FAILURES):
        return "unavailable", "unknown"
    return "ok", await asyncio.to_thread(_state, revision)


@lru_cache(maxsize=8)
def _state(revision: str | None) -> SchemaState:
    """Alembic reads its folder for the answer; neither that nor the answer changes while the process lives."""
    return schema_state(revision)
