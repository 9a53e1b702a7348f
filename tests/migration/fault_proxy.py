"""Stands between the client and the emulator and hands bytes on, until a scripted fault is due."""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc


@dataclass(frozen=True)
class Fault:
    """After so many messages of a call: an error, or with no code an end that looks right."""

    code: grpc.StatusCode | None
    after: int = 0


class FaultProxy(grpc.GenericRpcHandler):
    """`script`: one entry a call, None lets it through; after its end all calls meet `always`."""

    def __init__(self, upstream: str, script: Sequence[Fault | None] = (), *, always: Fault | None = None) -> None:
        self._channel = grpc.aio.insecure_channel(upstream, options=(("grpc.max_receive_message_length", -1),))
        self._script, self._always = list(script), always
        self.calls = 0

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return grpc.unary_stream_rpc_method_handler(self._forward(handler_call_details))

    def _forward(self, details: grpc.HandlerCallDetails) -> Any:
        async def forward(request: bytes, context: Any) -> AsyncIterator[bytes]:
            self.calls += 1
            fault = self._script.pop(0) if self._script else self._always
            call = self._channel.unary_stream(str(details.method))(request, metadata=details.invocation_metadata)
            passed = 0
            async for message in call:
                if fault and passed >= fault.after:
                    break
                passed += 1
                yield message
            if fault and fault.code:
                await context.abort(fault.code, "planted")

        return forward

    async def aclose(self) -> None:
        await self._channel.close()


@asynccontextmanager
async def proxied(proxy: FaultProxy) -> AsyncGenerator[str]:
    """The proxy's host:port."""
    server = grpc.aio.server(options=(("grpc.max_send_message_length", -1),))
    server.add_generic_rpc_handlers((proxy,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
        await proxy.aclose()
