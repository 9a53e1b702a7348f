"""Chunks as providers write them."""

import pytest

from freya_gateway.llm.chunks import MAX_COUNT, decode_chunk, finish_reason, model_name
from freya_gateway.llm.types import Usage


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"choices":[{"delta":{"content":"Yes"}}]}', "Yes"),
        (b'{"choices":[{"delta":{"role":"assistant"}}]}', ""),
        (b'{"choices":[{"delta":{"content":null}}]}', ""),
        (b'{"choices":[{"delta":{"content":null,"refusal":"I will not."}}]}', "I will not."),
        (b'{"choices":[{"delta":{"content":"","reasoning_content":"hm"}}]}', ""),
        (b'{"choices":[{"delta":{"content":"a\\u0000b"}}]}', "a\x00b"),
        (b'{"choices":[{"delta":{"content":"\\ud83d"}}]}', "\ud83d"),
        (b'{"choices":[{"delta":{"content":"\\ud83d\\ude00"}}]}', "😀"),
        (b'{"choices":[{"delta":{"content":"a\xffb"}}]}', "a\ufffdb"),
        (b'{"note":"\\ud83d","choices":[{"delta":{"content":"Yes"}}]}', "Yes"),
    ],
)
def test_text_of_a_chunk(payload: bytes, text: str) -> None:
    chunk = decode_chunk(payload)
    assert chunk.choices
    assert chunk.choices[0].delta
    assert chunk.choices[0].delta.text == text


@pytest.mark.parametrize("payload", [b"{}", b'{"choices":[]}', b'{"choices":null,"usage":null,"error":null,"x":1}'])
def test_chunk_without_choices(payload: bytes) -> None:
    assert not decode_chunk(payload).choices


@pytest.mark.parametrize(
    "payload",
    [b"", b"x", b"[1]", b"3", b'"x"', b'{"choices":[{"delta":{"content":3}}]}', b'{"choices":{}}', b"[" * 99_999],
)
def test_no_chunk_at_all(payload: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  (any kind of it; the words are the decoder's)
        decode_chunk(payload)


@pytest.mark.parametrize(
    ("usage", "counted"),
    [
        (b'{"prompt_tokens":9,"completion_tokens":2}', Usage(9, 2, 0)),
        (b'{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}', Usage(9, 2, 8)),
        (b'{"prompt_tokens":9.0,"completion_tokens":null,"prompt_tokens_details":null}', Usage(9, 0, 0)),
        (b'{"prompt_tokens":-1,"completion_tokens":99999999999999999999}', Usage(0, MAX_COUNT, 0)),
    ],
)
def test_usage_always_fits_its_columns(usage: bytes, counted: Usage) -> None:
    chunk = decode_chunk(b'{"choices":[],"usage":%b}' % usage)
    assert chunk.usage
    assert chunk.usage.counted() == counted


@pytest.mark.parametrize("word", [None, "", "null"])
def test_no_finish_reason_yet(word: str | None) -> None:
    assert finish_reason(word) is None


@pytest.mark.parametrize(
    ("name", "kept"), [("gpt-4.1-mini", True), (None, False), ("", False), ("a\x00", False), ("x" * 201, False)]
)
def test_name_of_the_model(name: str | None, kept: bool) -> None:
    assert model_name(name, "asked") == (name if kept else "asked")
