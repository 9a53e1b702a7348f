"""Streams of providers, one file per dialect, written after what they document; each read at once and byte by byte."""

from collections.abc import Callable
from pathlib import Path

import pytest

from freya_gateway.llm.types import Finish, Usage
from tests.model_server import ModelServer, Raw
from tests.unit.llm.conftest import Asker

STREAMS = Path(__file__).parent / "streams"
EXPECTED = {
    "openai": ("Hello! How can I help?", Finish("stop", Usage(1219, 7, 1024), "gpt-4.1-mini-2025-04-14")),
    "openai_refusal": ("I can't help with that.", Finish("stop", Usage(20, 8, 0), "gpt-4o-2024-08-06")),
    "azure": ("Color me curious", Finish("stop", Usage(0, 0, 0), "gpt-4o-mini-2024-07-18")),
    "azure_filtered": ("He said ", Finish("content_filter", Usage(0, 0, 0), "gpt-4o-mini-2024-07-18")),
    "llama_cpp": ("Hello Freya\n", Finish("stop", Usage(31, 3, 12), "SmolLM2-135M-Instruct.Q4_1.gguf")),
    "vllm": ("Guten Tag 👋", Finish("length", Usage(12, 4, 0), "freya-8b")),
    "openrouter": ("Hi", Finish("stop", Usage(10, 1, 0), "openai/gpt-4.1-mini")),
}


def test_every_stream_is_expected() -> None:
    assert {path.stem for path in STREAMS.glob("*.sse")} == EXPECTED.keys()


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("step", [1, 17, 100_000])
async def test_stream_of_provider(model: ModelServer, asker: Callable[..., Asker], name: str, step: int) -> None:
    body = (STREAMS / f"{name}.sse").read_bytes()
    model.script(Raw([body[at : at + step] for at in range(0, len(body), step)]))
    answer = await asker(attempts=1).ask()
    assert (answer.text, answer.finish) == EXPECTED[name]
