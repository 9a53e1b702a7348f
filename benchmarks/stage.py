"""What a benchmark needs around the server it measures: PostgreSQL, the model, users with credentials."""

import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import jwt

from benchmarks.processes import Cores, Server, start_server
from freya_gateway.db import embedded, schema

CREDENTIAL_SECONDS = 4 * 3600


@dataclass(frozen=True, slots=True)
class Stage:
    """Where servers are started. `secret` signs the credentials of the users."""

    cores: Cores
    database_url: str
    model_url: str
    secret: str

    @asynccontextmanager
    async def gateway(self) -> AsyncGenerator[Server, None]:
        """A gateway with everything on."""
        environment = {
            "DATABASE_URL": self.database_url,
            "OPENAI_BASE_URL": self.model_url,
            "OPENAI_API_KEY": "bench",
            "FREYA_MODEL": "freya-bench",
            "FREYA_JWT_SECRET": self.secret,
            "HOST": "127.0.0.1",
            "PORT": "0",
        }
        server = await start_server("benchmarks.gateway", cores=self.cores.tested, environment=environment)
        async with _stopped(server):
            yield server

    @asynccontextmanager
    async def peer(self, kind: str) -> AsyncGenerator[Server, None]:
        """One of `benchmarks.peers`."""
        environment = {"OPENAI_BASE_URL": self.model_url}
        server = await start_server("benchmarks.peers", kind, cores=self.cores.tested, environment=environment)
        async with _stopped(server):
            yield server

    def credential(self, user: str) -> str:
        """The user's JWT."""
        now = int(time.time())
        claims = {"sub": user, "iat": now, "exp": now + CREDENTIAL_SECONDS}
        return jwt.encode(claims, self.secret, algorithm="HS256")


@contextmanager
def database() -> Generator[str, None, None]:
    """The URL of a migrated database in a throwaway folder. Not from a running loop."""
    with tempfile.TemporaryDirectory(prefix="freya-bench-") as folder:
        server = embedded.start(Path(folder) / "postgres")
        try:
            schema.upgrade(server.url)
            yield server.url
        finally:
            server.stop()


@asynccontextmanager
async def stage(cores: Cores, database_url: str) -> AsyncGenerator[Stage, None]:
    """The stage on a migrated database, with a model of its own."""
    model = await start_server("tests.model_server", cores=cores.others, environment={})
    async with _stopped(model):
        yield Stage(cores, database_url, f"http://127.0.0.1:{model.port}/v1", secrets.token_hex(32))


@asynccontextmanager
async def _stopped(server: Server) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await server.stop()
