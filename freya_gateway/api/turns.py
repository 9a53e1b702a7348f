"""The state of a turn, and the end of one."""

from dataclasses import asdict
from uuid import UUID

from fastapi import APIRouter

from freya_gateway.api.dependencies import CurrentUser, GatewayState
from freya_gateway.api.errors import problem_responses
from freya_gateway.api.schemas import ExactJson, TurnAnswer
from freya_gateway.turns.service import TurnView

router = APIRouter(prefix="/v1/turns", tags=["turns"])


@router.get(
    "/{turn_id}", response_model=TurnAnswer, summary="Look at a turn", responses=problem_responses(401, 404, 422, 503)
)
async def get_turn(turn_id: UUID, gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """The turn as it is now, with its reply once it has one."""
    return _answer(await gateway.turns.get(caller.user_id, turn_id))


@router.post(
    "/{turn_id}/stop",
    response_model=TurnAnswer,
    summary="Stop generating",
    responses=problem_responses(401, 404, 422, 503),
)
async def stop_turn(turn_id: UUID, gateway: GatewayState, caller: CurrentUser) -> ExactJson:
    """Ends a turn in any phase, from any tab; what was said so far stays. Asking again changes nothing."""
    return _answer(await gateway.turns.stop(caller.user_id, turn_id))


def _answer(view: TurnView) -> ExactJson:
    fields = asdict(view) | {"turn": view.id, "messages": view.message_ids, "reply": view.reply}
    return ExactJson(TurnAnswer.model_validate(fields))
