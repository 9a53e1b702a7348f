"""What routes ask for: the gateway, and the user whom the credential names (never the URL, never the body)."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Header, Query, Request

from freya_gateway.api.auth import Principal
from freya_gateway.api.state import Gateway


@dataclass(frozen=True, slots=True)
class Caller:
    """The authenticated user of a request; a stream of theirs ends at `expires_at`."""

    user_id: UUID
    principal: Principal
    ticket: str | None = None  # that it came with

    @property
    def expires_at(self) -> datetime | None:
        return self.principal.expires_at


async def gateway_of(request: Request) -> Gateway:
    return request.state.gateway


GatewayState = Annotated[Gateway, Depends(gateway_of)]


async def current_user(
    request: Request,
    gateway: GatewayState,
    _authorization: Annotated[
        str | None, Header(alias="authorization", description="`Bearer` and a JWT or an API key.")
    ] = None,
) -> Caller:
    principal = await gateway.authenticator.authenticate(request.headers)
    return Caller(await gateway.users.id_of(principal.subject), principal)


CurrentUser = Annotated[Caller, Depends(current_user)]


async def stream_user(
    request: Request,
    gateway: GatewayState,
    ticket: Annotated[str | None, Query(description="From `POST /v1/stream/tickets`; instead of a header.")] = None,
) -> Caller:
    if ticket is None:
        return await current_user(request, gateway)
    principal = gateway.authenticator.verify_ticket(ticket)
    return Caller(await gateway.users.id_of(principal.subject), principal, ticket)


StreamUser = Annotated[Caller, Depends(stream_user)]
