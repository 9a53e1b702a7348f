"""The scripted model keeps its word, in a test and as a process: other tests compare with what it says it sends."""

import asyncio
import sys
from collections.abc import Callable

import pytest

from freya_gateway.llm.types import ChatMessage
from tests.model_server import ModelServer, expected_reply
from tests.unit.llm.conftest import Asker

Make = Callable[..., Asker]


def test_the_expected_reply_depends_on_the_words_alone() -> None:
    assert expected_reply("Hi") == expected_reply("Hi")
    assert expected_reply("Hi") != expected_reply("Ho")
    assert expected_reply("Hi !reply tokens=30 seed=3") == expected_reply("Ho !reply seed=3 tokens=30")
    assert expected_reply("!reply seed=3", tokens=30) == expected_reply("!reply tokens=30 seed=3")


@pytest.mark.parametrize(
    ("words", "code"),
    [("!reply status=400", "rejected"), ("!reply tokens=9 cut=3", "broken_stream"), ("!reply finish=length", None)],
)
async def test_words_ask_for_trouble(asker: Make, words: str, code: str | None) -> None:
    answer = await asker(attempts=1).ask(ChatMessage("user", words))
    assert answer.code == code
    assert expected_reply(words).startswith(answer.text)


async def test_as_a_process(asker: Make) -> None:
    arguments = ("-m", "tests.model_server", "--port", "0", "--rate", "0", "--tokens", "50")
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        base_url = (await process.stdout.readline()).decode().strip()
        answer = await asker(base_url=base_url).ask(ChatMessage("user", "Hi"))
    finally:
        process.terminate()
        await process.wait()
    assert answer.text == expected_reply("Hi", tokens=50)


async def test_an_answer_that_is_not_streamed(model: ModelServer) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(model.base_url.split(":")[2].removesuffix("/v1")))
    body = b'{"model": "m", "messages": [{"role": "user", "content": "Hi"}]}'
    writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    assert b"chat.completion" in await reader.readuntil(b"\r\n0\r\n\r\n")
    writer.close()
    await writer.wait_closed()
