"""Runs one attempt of one turn: assemble, ask the model, log its pieces, end the turn. Whatever happens, it ends:
by a `reply`, or by leaving the turn to whoever holds it now."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar
from uuid import uuid4

from loguru import logger

from freya_gateway.context.assembler import Prompt
from freya_gateway.db import turns as store
from freya_gateway.db.events import NewEvent
from freya_gateway.db.turns import Claim, Reply
from freya_gateway.errors import ModelError, Unavailable
from freya_gateway.events.types import to_json
from freya_gateway.events.writer import Draft, numbered
from freya_gateway.llm.tokens import count_tokens
from freya_gateway.llm.types import Finish
from freya_gateway.turns.means import Means
from freya_gateway.turns.replies import STOPPED, Outcome, ReplyData, ended, failed

LOST_ATTEMPTS = 2  # after so many attempts that died with their process, no model is asked again
RETRY_SECONDS = 0.25
MOST_RETRY_SECONDS = 5.0

Result = TypeVar("Result")


class Run:
    """A turn that this process runs. `stop` ends it with what was said; `abandon` leaves it to others."""

    def __init__(self, claim: Claim) -> None:
        self.draft = Draft(claim, on_fenced=self.abandon)
        self.stopped = claim.stop_requested
        self.abandoned = False
        self.prompt: Prompt | None = None
        self.more_waits = True  # whether the user may have another turn to run; the turn's end knows
        self._scope: asyncio.Timeout | None = None

    @property
    def claim(self) -> Claim:
        """The claim as it is now: the writer renews its generation when the log's answer was lost."""
        return self.draft.claim

    def stop(self) -> None:
        self.stopped = True
        self._interrupt()

    def abandon(self) -> None:
        self.abandoned = True
        self._interrupt()

    def scope(self) -> asyncio.Timeout:
        """The part of the run that a stop cuts short, as a deadline that a stop moves to now."""
        self._scope = asyncio.timeout(0 if self.stopped or self.abandoned else None)
        return self._scope

    def close_scope(self) -> None:
        self._scope = None

    def _interrupt(self) -> None:
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time())


class TurnRunner:
    """Runs turns, one `run` each."""

    def __init__(self, means: Means) -> None:
        self._means = means

    async def run(self, run: Run) -> None:
        """Until the turn has ended or is another's."""
        outcome = await self._generate(run)
        if not run.abandoned:
            await self._finish(run, outcome)

    async def _generate(self, run: Run) -> Outcome:
        scope = run.scope()
        try:
            async with scope:
                return ended(await self._converse(run))
        except ModelError as error:
            return failed(error, spoke=bool(run.draft.text))
        except Exception as error:  # boundary: whatever went wrong, the turn ends with a reply
            if scope.expired():
                return STOPPED
            logger.opt(exception=error).error("turn failed")
            return failed(ModelError("internal_error", retryable=True), spoke=bool(run.draft.text))
        finally:
            run.close_scope()

    async def _converse(self, run: Run) -> Finish:
        """Asks the model and logs its pieces as they come; its Finish."""
        claim = run.claim
        if claim.lost >= LOST_ATTEMPTS:
            raise ModelError("attempts_lost", retryable=True)
        run.prompt = await self._assemble(claim)
        self._means.writer.event(run.draft, "thinking", _thinking(claim, run.prompt))
        stream = self._means.model.stream(run.prompt.messages, user=claim.user_id.hex)
        try:
            async for part in stream:
                if isinstance(part, Finish):
                    return part
                self._means.writer.add(run.draft, part.text)
                await self._means.writer.window(run.draft)
        finally:
            await stream.aclose()
        raise ModelError("no_finish_reason", retryable=True)

    async def _assemble(self, claim: Claim) -> Prompt:
        """The prompt, however long PostgreSQL takes to be there; a stop ends the wait."""
        return await patiently(lambda: self._means.assembler.assemble(claim.user_id, claim.turn_id), what="prompt")

    async def _finish(self, run: Run, outcome: Outcome) -> None:
        """Ends the turn in one transaction, however long PostgreSQL takes to be there."""
        if not run.draft.text and (words := outcome.words_if_silent or await self._said_before(run.claim)):
            self._means.writer.add(run.draft, words)
        events = await self._means.writer.take(run.draft)
        if not run.abandoned:
            reply = self._reply(run, outcome, events)
            await patiently(lambda: self._commit(run, reply), what="reply")

    async def _said_before(self, claim: Claim) -> str:
        """What a lost attempt had said: a stop keeps it, though this attempt has not spoken."""
        if claim.attempt == 1:
            return ""
        said = self._means.log.said
        return await patiently(
            lambda: said(claim.user_id, claim.turn_id, first_event=claim.first_event), what="partial reply"
        )

    def _reply(self, run: Run, outcome: Outcome, events: tuple[NewEvent, ...]) -> Reply:
        claim, now, text = run.claim, self._means.now(), "".join(run.draft.text)
        columns = outcome.columns(self._ttft_ms(run) if outcome.status != "fallback" and text else None)
        prompt = run.prompt
        facts, topics = (prompt.facts, prompt.topics) if prompt else ((), ())
        data = ReplyData(claim.turn_id, uuid4(), text, now, outcome.status, columns, facts, topics)
        return Reply(
            user_id=claim.user_id,
            turn_id=claim.turn_id,
            generation=claim.generation,
            message_id=data.message_id,
            text=text,
            n_tokens=count_tokens(text),
            status=outcome.status,
            outcome=columns,
            events=(*events, NewEvent(claim.turn_id, "reply", claim.attempt, data.to_json())),
            now=now,
            prompt_size=prompt.n_tokens if prompt else 0,
            blocks=prompt.blocks if prompt else None,
        )

    def _ttft_ms(self, run: Run) -> int:
        """From the accepted message to the first piece in the log (or to now, if it goes with the reply)."""
        first = run.draft.first_piece_at
        since = asyncio.get_running_loop().time() - first if first is not None else 0.0
        elapsed = self._means.now() - timedelta(seconds=since) - run.claim.accepted_at
        self._means.metrics.first_token.observe(max(elapsed.total_seconds(), 0))
        return max(round(elapsed.total_seconds() * 1000), 0)

    async def _commit(self, run: Run, reply: Reply) -> None:
        if run.abandoned:
            return
        async with self._means.database.reading() as connection:
            ended = await store.finish(connection, reply, sender=self._means.owner)
        if ended is None:
            logger.info("turn is another's")
            return
        run.more_waits = ended.queued
        self._means.hub.publish(reply.user_id, numbered(reply.events, ended.first))
        self._means.metrics.turns.labels(reply.status).inc()
        self._means.on_ended(reply.user_id)
        logger.info("turn ended", status=reply.status, attempt=run.claim.attempt, **_figures(reply))


async def patiently(work: Callable[[], Awaitable[Result]], *, what: str) -> Result:
    """What `work` gives, once PostgreSQL is there for it."""
    wait = RETRY_SECONDS
    while True:
        try:
            return await work()
        except Unavailable:
            logger.warning("waiting for PostgreSQL", what=what)
        await asyncio.sleep(wait * random.uniform(0.5, 1))
        wait = min(wait * 2, MOST_RETRY_SECONDS)


def _thinking(claim: Claim, prompt: Prompt) -> str:
    counts = {"facts": len(prompt.facts), "topics": len(prompt.topics), "messages": len(prompt.recalled)}
    return to_json({"turn": claim.turn_id, "attempt": claim.attempt, "recalled": counts})


def _figures(reply: Reply) -> dict[str, int | str | None]:
    names = ("model", "prompt_tokens", "cached_tokens", "completion_tokens", "ttft_ms", "error_code")
    return {name: reply.outcome[name] for name in names if reply.outcome[name] is not None}
