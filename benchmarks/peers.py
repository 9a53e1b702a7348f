"""What the gateway is measured against. `python -m benchmarks.peers plain|pump`, the model's URL in OPENAI_BASE_URL.

plain: the endpoint that one writes first: FastAPI, sse-starlette and the openai client as their manuals show them, no
memory, no database. pump: asyncio streams that hand the model's bytes on unread, which is as cheap as Python gets.
"""

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import uvicorn
import uvloop
from fastapi import FastAPI
from openai import AsyncOpenAI
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

MODEL = "freya-bench"
END_OF_BODY = b"0\r\n\r\n"
READ_BYTES = 65536


class Body(BaseModel):
    text: str


def plain_app(model_url: str) -> FastAPI:
    """`POST /v1/stream` with a text streams the model's reply; `GET /v1/stream` is a stream on which nothing comes."""
    client = AsyncOpenAI(base_url=model_url, api_key="bench")

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None, None]:
        yield
        await client.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/stream")
    async def stream(body: Body) -> EventSourceResponse:  # pyright: ignore[reportUnusedFunction]
        return EventSourceResponse(_tokens(client, body.text))

    @app.get("/v1/stream")
    async def follow() -> EventSourceResponse:  # pyright: ignore[reportUnusedFunction]
        return EventSourceResponse(_silence(), ping=15)

    return app


async def _tokens(client: AsyncOpenAI, text: str) -> AsyncIterator[dict[str, str]]:
    chunks = await client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": text}], stream=True
    )
    async for chunk in chunks:
        if chunk.choices and chunk.choices[0].delta.content:
            yield {"event": "token", "data": json.dumps({"text": chunk.choices[0].delta.content})}
    yield {"event": "reply", "data": "{}"}


async def _silence() -> AsyncIterator[dict[str, str]]:
    yield {"event": "ready", "data": "{}"}
    await asyncio.Event().wait()


async def serve_pump(model_url: str) -> None:
    """Turns every send into a model call and passes the answer on, head included."""
    address = urlsplit(model_url)

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        text = json.loads(await reader.readexactly(length))["text"]
        from_model, to_model = await asyncio.open_connection(address.hostname, address.port)
        to_model.write(_model_request(text))
        while data := await from_model.read(READ_BYTES):
            writer.write(data)
            await writer.drain()
            if data.endswith(END_OF_BODY):
                break
        to_model.close()
        writer.close()

    server = await asyncio.start_server(pump, "127.0.0.1", 0, backlog=1024)
    _announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _model_request(text: str) -> bytes:
    body = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": text}]}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nhost: model\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _AnnouncingServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _announce(self.servers[0].sockets[0].getsockname()[1])


def _announce(port: int) -> None:
    print(f"listening on {port}", flush=True)


def main() -> None:
    model_url = os.environ["OPENAI_BASE_URL"]
    if sys.argv[1] == "pump":
        uvloop.run(serve_pump(model_url))
    else:
        config = uvicorn.Config(plain_app(model_url), port=0, log_level="warning", backlog=2048)
        _AnnouncingServer(config).run()


if __name__ == "__main__":
    main()
