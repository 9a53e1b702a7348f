"""A user's own settings: the name and time zone that Freya goes by, and whether she learns."""

from dataclasses import asdict, replace
from datetime import datetime
from functools import cache
from typing import Annotated
from zoneinfo import available_timezones

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.schemas import ExactJson
from freya_gateway.db import account as store
from freya_gateway.db import facts, grouping, memory_work
from freya_gateway.db.account import Account
from freya_gateway.errors import Invalid

router = APIRouter(prefix="/v1", tags=["account"])

# One visible line: a name stands in prompts.
ONE_LINE = r"^[^\p{Cc}\u2028\u2029]+$"
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=80, pattern=ONE_LINE)]


class AccountBody(BaseModel):
    """What shall change; what is not named stays."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"display_name": "Ana", "time_zone": "Europe/Lisbon"}]},
    )

    display_name: Annotated[Name | None, Field(description="How Freya calls the user; null for no name.")] = None
    time_zone: Annotated[str | None, Field(description="An IANA name, e.g. Europe/Lisbon; null leaves it.")] = None
    memory_paused: Annotated[
        bool | None, Field(strict=True, description="True: Freya answers, and learns nothing; null leaves it.")
    ] = None


class AccountAnswer(BaseModel):
    """A user's settings."""

    display_name: str | None
    time_zone: str
    memory_paused: bool
    created_at: datetime


@router.get(
    "/account", response_model=AccountAnswer, summary="Read your settings", responses=problem_responses(401, 503)
)
async def get_account(gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """Your name, your time zone, and whether memory is paused."""
    async with gateway.database.reading() as connection:
        return _answer(await store.get(connection, caller.user_id))


@router.patch(
    "/account",
    response_model=AccountAnswer,
    summary="Change your settings",
    responses=problem_responses(400, 401, 415, 422, 503),
)
async def change_account(body: AccountBody, gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """Changes what is named. What is said while memory is paused is not learned later either."""
    async with gateway.database.transaction() as connection:
        await facts.lock(connection, caller.user_id)
        before = await store.get(connection, caller.user_id)
        account = _changed(before, body)
        await store.change(connection, caller.user_id, account)
        if before.memory_paused and not account.memory_paused:
            await memory_work.skip(connection, caller.user_id, "facts")
            await grouping.skip(connection, caller.user_id)
    return _answer(account)


def _changed(account: Account, body: AccountBody) -> Account:
    given = body.model_dump(include=body.model_fields_set)
    kept = {name: value for name, value in given.items() if value is not None or name == "display_name"}
    if kept.get("time_zone", "UTC") not in _time_zones():
        raise Invalid("unknown_time_zone", "That is no IANA time zone; send one like Europe/Lisbon or UTC.")
    return replace(account, **kept)


@cache
def _time_zones() -> frozenset[str]:
    return frozenset(available_timezones())


def _answer(account: Account) -> ExactJson:
    return ExactJson(AccountAnswer(**asdict(account)))
