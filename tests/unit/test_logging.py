"""The log: one line per thing said, whoever says it, and never a user's words."""

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from typing import Any

import asyncpg
import pytest
from loguru import logger
from pydantic import BaseModel, SecretStr, ValidationError

from freya_gateway.errors import Conflict, ModelError
from freya_gateway.logging import configure_logging
from freya_gateway.settings import Settings

WORDS = "I never told anyone about the lighthouse"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves logging as pytest had set it up."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logger.remove()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def lines() -> Lines:
    """What a gateway in production has logged."""
    out = io.StringIO()
    with redirect_stdout(out):
        configure_logging(settings(env="production"))
    return lambda: [json.loads(line) for line in out.getvalue().splitlines()]


def settings(**changes: Any) -> Settings:
    values: dict[str, Any] = {
        "database_url": SecretStr("postgresql://freya:secret@db/freya"),
        "openai_api_key": SecretStr("sk-test"),
        "jwt_secret": SecretStr("0123456789abcdef0123456789abcdef"),
    }
    return Settings(_env_file=None, **(values | changes))  # pyright: ignore[reportCallIssue]


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """The error as one that was raised and caught."""

    def fail() -> None:
        raise error from cause

    with pytest.raises(type(error)) as caught:
        fail()
    return caught.value


def test_a_line_is_one_json_object_with_the_ids_in_front(lines: Lines) -> None:
    with logger.contextualize(request="r1", turn="t1"):
        logger.bind(status=200).info("request\nover two lines")
    line = lines()[0]
    assert (line["level"], line["message"]) == ("INFO", "request\nover two lines")
    assert (line["request"], line["turn"]) == ("r1", "t1")
    assert line["extra"] == {"status": 200}
    assert line["time"].endswith("+00:00")


def test_a_line_that_json_cannot_hold_is_written_all_the_same(lines: Lines) -> None:
    logger.info("half {}", "\ud83d", odd=object, error=ValueError(WORDS))
    line = lines()[0]
    assert line["message"] == "half \ud83d"
    assert line["extra"]["error"] == "ValueError"


def test_an_error_of_postgresql_keeps_the_words_it_quotes_to_itself(lines: Lines) -> None:
    fields = {
        "S": "ERROR",
        "C": "23505",
        "M": f'duplicate key value violates unique constraint "facts_text" ({WORDS})',
        "D": f"Key (text)=({WORDS}) already exists.",
        "H": WORDS,
    }
    refused = asyncpg.PostgresError.new(fields)
    assert WORDS in str(refused)
    logger.opt(exception=raised(Conflict("busy", "wait"), cause=raised(refused))).error("turn failed")
    line = lines()[0]
    assert WORDS not in json.dumps(line)
    assert line["exception"]["message"] == "busy: wait"
    assert line["exception"]["cause"]["type"] == "asyncpg.exceptions.UniqueViolationError"
    assert line["exception"]["cause"]["sqlstate"] == "23505"
    assert "raised" in line["exception"]["cause"]["traceback"][-1]


class Age(BaseModel):
    age: int


def test_no_library_s_error_can_quote_a_user(lines: Lines) -> None:
    with pytest.raises(ValidationError) as invalid:
        Age.model_validate({"age": WORDS})
    errors: list[BaseException] = [
        invalid.value,
        ValueError(WORDS),
        KeyError(WORDS),
        raised(RuntimeError("while handling"), cause=ValueError(WORDS)),
        ExceptionGroup(WORDS, [ValueError(WORDS), KeyError(WORDS)]),
    ]
    for error in errors:
        logger.opt(exception=raised(error)).error("turn failed")
    found = lines()
    assert len(found) == len(errors)
    assert WORDS not in json.dumps(found)
    assert [one["type"] for one in found[-1]["exception"]["exceptions"]] == ["builtins.ValueError", "builtins.KeyError"]


def test_values_of_variables_are_not_shown(lines: Lines) -> None:
    def answer(text: str) -> None:
        raise ModelError("timeout", retryable=True)

    with pytest.raises(ModelError) as failed:
        answer(WORDS)
    logger.opt(exception=failed.value).error("turn failed")
    line = lines()[0]
    assert line["exception"]["message"] == "timeout"
    assert any("answer" in frame for frame in line["exception"]["traceback"])
    assert WORDS not in json.dumps(line)


def test_an_error_that_causes_itself_ends(lines: Lines) -> None:
    error = ValueError("a")
    error.__cause__ = KeyError("b")
    error.__cause__.__cause__ = error
    logger.opt(exception=error).error("turn failed")
    assert len(lines()) == 1


def test_libraries_join_from_warnings_on(lines: Lines) -> None:
    for name in ("uvicorn.error", "aiohttp.access", "sse_starlette.sse", "asyncio", "anything"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble at %s", name)
    found = lines()
    assert [line["message"].split()[0] for line in found] == ["trouble"] * 5
    assert (found[0]["message"], found[0]["logger"]) == ("trouble at uvicorn.error", "uvicorn.error")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("cannot reach postgresql://freya:hunter2@db/freya", "cannot reach postgresql://***@db/freya"),
        ("refused: Authorization: Bearer eyJ.hunter2.x", "refused: Authorization: Bearer ***"),
        ("GET /v1/stream?ticket=hunter2&after=1.2", "GET /v1/stream?ticket=***&after=1.2"),
    ],
)
def test_what_libraries_quote_of_secrets_is_masked(lines: Lines, said: str, shown: str) -> None:
    logging.getLogger("anything").error(said)
    assert lines()[0]["message"] == shown


def test_a_line_says_who_speaks(lines: Lines) -> None:
    logger.info("turn ended")
    assert lines()[0]["logger"] == __name__


async def test_a_task_that_nobody_awaited_is_reported_without_its_words(lines: Lines) -> None:
    async def fail() -> None:
        raise ValueError(WORDS)

    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    asyncio.get_running_loop().call_exception_handler(
        {"message": "Task exception was never retrieved", "exception": task.exception(), "future": task}
    )
    line = lines()[0]
    assert line["message"] == "Task exception was never retrieved"
    assert line["exception"]["type"] == "builtins.ValueError"
    assert WORDS not in json.dumps(line)


def test_the_level_of_the_settings_is_the_least_shown(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(env="production", log_level="ERROR"))
    logger.warning("quiet")
    logging.getLogger("uvicorn").warning("quiet")
    logger.error("loud")
    assert [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()] == ["loud"]


def test_configured_twice_says_things_once(lines: Lines) -> None:
    out = io.StringIO()
    with redirect_stdout(out):
        configure_logging(settings(env="production"))
    logging.getLogger("uvicorn").error("once")
    logger.info("once")
    assert len(out.getvalue().splitlines()) == 2
    assert not lines()


def test_development_is_for_reading(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings(env="development"))
    with logger.contextualize(request="r1"):
        logger.bind(path="/\x1b[2J\n<red>").info("request {ms} ms", ms=3)
    logger.opt(exception=raised(ValueError(WORDS))).error("turn failed")
    said = capsys.readouterr()
    assert not said.out
    first, *rest = said.err.splitlines()
    assert "request 3 ms" in first
    assert "request=r1" in first
    assert r"path=/\x1b[2J\n<red>" in first
    assert "builtins.ValueError" in "".join(rest)
    assert WORDS not in said.err
