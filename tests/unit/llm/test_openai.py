"""The model client against real HTTP: what a reply looks like, and what is asked for."""

import asyncio
import gzip
from collections.abc import Callable

import msgspec
import pytest
from pydantic import SecretStr

from freya_gateway.llm.openai import OpenAIOptions, request_body
from freya_gateway.llm.types import ChatMessage, Finish, Usage
from tests.model_server import Empty, ModelServer, Raw, Reply, Status, expected_reply, usage_object
from tests.unit.llm.conftest import MESSAGES, Asker

Make = Callable[..., Asker]


async def test_reply_comes_piece_by_piece_then_one_finish(model: ModelServer, asker: Make) -> None:
    model.script(Reply(["Hel", "lo", " there"], gap=0.01, usage=usage_object(1200, 3, cached=1024)))
    answer = await asker().ask()
    assert answer.pieces == ["Hel", "lo", " there"]
    assert answer.finish == Finish("stop", Usage(1200, 3, 1024), "freya")


async def test_chunks_of_one_read_become_one_piece(model: ModelServer, asker: Make) -> None:
    chunks = [b'data: {"choices":[{"delta":{"content":"%d"}}]}\n\n' % number for number in range(5)]
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    model.script(Raw([b"".join(chunks) + end]))
    assert (await asker().ask()).pieces == ["01234"]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("content_filter", "content_filter"),
        ("tool_calls", "stop"),
        ("eos", "stop"),
        ("max_tokens", "length"),
        ("SAFETY", "content_filter"),
    ],
)
async def test_finish_reasons_of_providers(model: ModelServer, asker: Make, word: str, reason: str) -> None:
    model.script(Reply(["Yes"], finish=word))
    answer = await asker().ask()
    assert answer.finish is not None
    assert (answer.text, answer.finish.reason) == ("Yes", reason)


async def test_filtered_before_the_first_word_is_a_finish_without_pieces(model: ModelServer, asker: Make) -> None:
    model.script(Empty("content_filter"))
    answer = await asker(fallback_model="spare").ask()
    assert answer.finish is not None
    assert (answer.pieces, answer.finish.reason, len(model.requests)) == ([], "content_filter", 1)


async def test_missing_usage_counts_nothing(model: ModelServer, asker: Make) -> None:
    model.script(Reply(["Yes"], usage=None))
    answer = await asker().ask()
    assert answer.finish == Finish("stop", Usage(), "freya")


async def test_usage_is_waited_for_only_shortly(model: ModelServer, asker: Make) -> None:
    end = b'data: {"choices":[{"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\n'
    model.script(Raw([end], ends=False))
    async with asyncio.timeout(1.8):
        answer = await asker(piece_timeout=30, first_piece_timeout=30).ask()
    assert answer.finish == Finish("stop", Usage(), "freya")
    await model.wait_disconnect()


async def test_nothing_after_the_finish_reason_can_break_a_reply(model: ModelServer, asker: Make) -> None:
    end = b'data: {"choices":[{"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\n'
    for trouble in (b"data: {not json\n\n", b'data: {"error":{"message":"no"}}\n\n', b"data: [DONE]"):
        model.script(Raw([end, trouble]))
        answer = await asker().ask()
        assert (answer.text, answer.finish) == ("Yes", Finish("stop", Usage(), "freya"))


async def test_body_left_open_after_done_does_not_hold_the_reply(model: ModelServer, asker: Make) -> None:
    end = b'data: {"choices":[{"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    model.script(Raw([end], ends=False))
    async with asyncio.timeout(0.8):
        answer = await asker().ask()
    assert answer.text == "Yes"


async def test_text_that_providers_escape_or_split_arrives_whole(model: ModelServer, asker: Make) -> None:
    text = 'a\x00b\u2028\r\n\n"\\ 東京 🙂'
    model.script(Reply(list(text)))
    assert (await asker().ask()).text == text


async def test_halves_of_a_surrogate_pair_stay_halves(model: ModelServer, asker: Make) -> None:
    halves = [
        b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n',
    ]
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    model.script(Raw([*halves, end], gap=0.02))
    answer = await asker().ask()
    assert answer.pieces == ["\ud83d", "\ude00"]
    assert answer.text.encode("utf-16", "surrogatepass").decode("utf-16") == "😀"


async def test_every_awkward_text_of_the_scripted_model_arrives(model: ModelServer, asker: Make) -> None:
    words = "!reply tokens=400 seed=7"
    answer = await asker().ask(ChatMessage("user", words))
    assert answer.text == expected_reply(words)


async def test_compressed_stream_is_read_although_not_asked_for(model: ModelServer, asker: Make) -> None:
    body = gzip.compress(b'data: {"choices":[{"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\n')
    model.script(Raw([body], headers={"content-encoding": "gzip"}))
    assert (await asker().ask()).text == "Yes"
    assert model.requests[0].headers["accept-encoding"] == "identity"


async def test_model_name_that_cannot_be_stored_is_not_taken_over(model: ModelServer, asker: Make) -> None:
    model.script(
        Raw([b'data: {"model":"a\\u0000b","choices":[{"delta":{"content":"Yes"},"finish_reason":"stop"}]}\n\n'])
    )
    answer = await asker().ask()
    assert answer.finish is not None
    assert answer.finish.model == "freya"


async def test_one_connection_serves_one_reply_after_the_other(model: ModelServer, asker: Make) -> None:
    client = asker()
    for _ in range(5):
        assert (await client.ask()).finish
    assert model.connections == 1


async def test_many_streams_at_once_each_have_a_connection(model: ModelServer, asker: Make) -> None:
    client = asker(first_piece_timeout=10)
    model.script(*[Reply(["Yes"], delay=0.5) for _ in range(150)])
    answers = await asyncio.gather(*(client.ask() for _ in range(150)))
    assert {answer.text for answer in answers} == {"Yes"}
    assert model.connections == 150


async def test_request_says_what_was_asked(model: ModelServer, asker: Make) -> None:
    client = asker(
        api_key=SecretStr("sk-secret"), temperature=0.3, presence_penalty=0.5, frequency_penalty=-1.0, max_tokens=77
    )
    await client.ask(user="user-9")
    sent = model.requests[0]
    assert sent.headers["authorization"] == "Bearer sk-secret"
    assert sent.body == {
        "model": "freya",
        "messages": [{"role": m.role, "content": m.content} for m in MESSAGES],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.3,
        "presence_penalty": 0.5,
        "frequency_penalty": -1.0,
        "max_tokens": 77,
        "user": "user-9",
    }


def test_openai_itself_is_asked_in_its_newer_words() -> None:
    body = msgspec.json.decode(request_body(OpenAIOptions(model="m", temperature=None), "m", MESSAGES, user="u"))
    assert {"max_completion_tokens", "safety_identifier", "prompt_cache_key"} <= body.keys()
    assert not {"max_tokens", "user", "temperature", "presence_penalty"} & body.keys()


def test_lone_surrogates_in_a_prompt_are_replaced() -> None:
    body = request_body(OpenAIOptions(model="m"), "m", [ChatMessage("user", "a\ud83d b\ud83d\ude00")], user="u")
    assert msgspec.json.decode(body)["messages"][0]["content"] == "a\ufffd b😀"


async def test_secrets_and_words_stay_out_of_errors(model: ModelServer, asker: Make) -> None:
    model.script(Status(400))
    answer = await asker(api_key=SecretStr("sk-secret")).ask()
    shown = f"{answer.error!r} {answer.error} {answer.error and answer.error.__cause__!r}"
    assert answer.code == "rejected"
    assert not [secret for secret in ("sk-secret", "umbrella", "today") if secret in shown]
