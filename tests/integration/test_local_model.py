"""The small local model: real weights, asked as the gateway asks any model."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import openai
import psutil
import pytest
from openai.types.chat import ChatCompletionMessageParam

from freya_gateway.llm import local
from freya_gateway.llm.local import LocalModel

INSTALLED = importlib.util.find_spec("xllamacpp") is not None and local.weights() is not None
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello! Who are you?"}]

pytestmark = pytest.mark.skipif(
    not INSTALLED and not os.environ.get("CI"), reason="the extra `local` is not installed: no model to test"
)


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    model = LocalModel()
    yield model.start()
    model.stop()


async def test_a_reply_streams_piece_by_piece_with_its_usage(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="local") as client:
        stream = await client.chat.completions.create(
            model=LocalModel.name,
            messages=HELLO,
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=40,
        )
        chunks = [chunk async for chunk in stream]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    reasons = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    usage = chunks[-1].usage
    assert len(pieces) > 3
    assert reasons in (["stop"], ["length"])
    assert usage is not None
    assert usage.prompt_tokens > 0
    assert usage.completion_tokens >= len(pieces)


async def test_a_repeated_prompt_is_answered_from_the_cache(base_url: str) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "system", "content": "You are Freya. " * 30}, *HELLO]
    async with openai.AsyncOpenAI(base_url=base_url, api_key="local") as client:
        answers = [
            await client.chat.completions.create(model=LocalModel.name, messages=messages, max_tokens=1)
            for _ in range(2)
        ]
    usage = answers[1].usage
    assert usage is not None
    assert usage.prompt_tokens_details is not None
    assert (usage.prompt_tokens_details.cached_tokens or 0) > usage.prompt_tokens // 2


async def test_the_budget_fits_into_the_model(base_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=base_url, api_key="local") as client:
        words = "Every word of this is read. " * (LocalModel.context_tokens // 7)
        answer = await client.chat.completions.create(
            model=LocalModel.name, messages=[{"role": "user", "content": words}], max_tokens=1
        )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens < local.SLOT_TOKENS / 2


def test_the_model_ends_when_its_parent_is_killed() -> None:
    code = (
        "from freya_gateway.llm.local import LocalModel; m = LocalModel(); m.start(); print(m.pid, flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the model outlived its parent"
        time.sleep(0.05)


def test_a_stopped_model_is_gone_and_stopping_again_is_harmless() -> None:
    model = LocalModel().launch()
    pid = model.pid
    model.stop()
    model.stop()
    assert pid is not None
    assert not psutil.pid_exists(pid)  # waited for, so not even a zombie


def test_without_its_parts_the_remedy_is_named() -> None:
    code = "import sys; sys.modules['xllamacpp'] = None; from freya_gateway.llm import local; local.require()"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "set OPENAI_API_KEY" in said.stderr
