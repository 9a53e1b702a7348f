"""Every setting, read once from the environment (and `.env`), checked as a whole before anything starts.

A wrong combination is refused with the reason and the remedy; secrets are `SecretStr` and never printed.
"""

import ipaddress
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from freya_gateway.errors import ConfigurationError

MIN_SECRET_BYTES = 32
MIN_API_KEY_LENGTH = 24
MIN_DISTINCT_CHARACTERS = 8


class Settings(BaseSettings):
    """The gateway's settings. Environment names: the alias of each field."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    env: Literal["development", "production"] = Field(
        "development",
        alias="FREYA_ENV",
        description="production refuses to start without authentication, with weak secrets, or on the embedded parts",
    )
    host: str = Field("127.0.0.1", alias="HOST", description="address to listen on; 0.0.0.0 or :: for all")
    port: int = Field(8000, alias="PORT", ge=0, le=65535, description="port to listen on; 0 takes a free one")

    database_url: SecretStr | None = Field(
        None,
        alias="DATABASE_URL",
        description="postgres:// or postgresql://; without it an embedded PostgreSQL runs from FREYA_DATA_DIR",
    )
    database_pool: int = Field(
        8,
        alias="FREYA_DATABASE_POOL",
        ge=2,
        le=100,
        description="most pooled database connections; two more are held for the log's writer and LISTEN, and up to three for memory work",
    )
    data_dir: Path = Field(
        Path(".freya"), alias="FREYA_DATA_DIR", description="where the embedded PostgreSQL keeps its data"
    )

    openai_api_key: SecretStr | None = Field(
        None,
        alias="OPENAI_API_KEY",
        description="key of the model's provider; without key and base URL a small local model answers",
    )
    openai_base_url: str | None = Field(
        None, alias="OPENAI_BASE_URL", description="any OpenAI-compatible endpoint; empty for OpenAI itself"
    )
    model: str = Field("gpt-4.1-mini", alias="FREYA_MODEL", description="the (fine-tuned) model that speaks as Freya")
    fallback_model: str | None = Field(
        None, alias="FREYA_FALLBACK_MODEL", description="asked when FREYA_MODEL gives no first piece"
    )
    memory_model: str | None = Field(
        None, alias="FREYA_MEMORY_MODEL", description="model that proposes memories; empty for FREYA_MODEL"
    )
    persona: Path | None = Field(
        None, alias="FREYA_PERSONA", description="file with Freya's persona; empty for the one in the package"
    )
    temperature: float = Field(0.8, alias="FREYA_TEMPERATURE", ge=0, le=2, description="sampling temperature")
    frequency_penalty: float = Field(
        0.0, alias="FREYA_FREQUENCY_PENALTY", ge=-2, le=2, description="OpenAI frequency penalty"
    )
    presence_penalty: float = Field(
        0.0, alias="FREYA_PRESENCE_PENALTY", ge=-2, le=2, description="OpenAI presence penalty"
    )
    max_reply_tokens: int = Field(
        1500, alias="FREYA_MAX_REPLY_TOKENS", ge=1, le=32_000, description="longest reply, in tokens"
    )
    context_tokens: int = Field(
        6000,
        alias="FREYA_CONTEXT_TOKENS",
        ge=2000,
        le=200_000,
        description="input budget of a model call, in o200k tokens",
    )
    first_piece_timeout: float = Field(
        30.0,
        alias="FREYA_FIRST_PIECE_TIMEOUT",
        gt=0,
        description="seconds a model may take to its first piece, retries included",
    )
    piece_timeout: float = Field(
        20.0, alias="FREYA_PIECE_TIMEOUT", gt=0, description="seconds between two pieces of a reply"
    )

    allowed_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        alias="FREYA_ALLOWED_ORIGINS",
        description="browser origins that may call, comma-separated, e.g. https://freya.example",
    )
    api_keys: SecretStr | None = Field(
        None, alias="FREYA_API_KEYS", description="key:user,key:user; each key 24 characters or more"
    )
    jwt_secret: SecretStr | None = Field(
        None, alias="FREYA_JWT_SECRET", description="HS256 secret, 32 bytes or more; signs stream tickets too"
    )
    jwks_url: str | None = Field(
        None,
        alias="FREYA_JWKS_URL",
        description="public keys of an identity provider (Firebase Auth, Clerk, Auth0, Supabase)",
    )
    jwt_issuer: str | None = Field(
        None, alias="FREYA_JWT_ISSUER", description="required `iss` of a token; must be set with FREYA_JWKS_URL"
    )
    jwt_audience: str | None = Field(
        None, alias="FREYA_JWT_AUDIENCE", description="required `aud` of a token; must be set with FREYA_JWKS_URL"
    )
    rate_limit: int = Field(60, alias="FREYA_RATE_LIMIT", ge=0, description="sends per minute and user; 0 for none")
    cockpit: bool | None = Field(
        None, alias="FREYA_COCKPIT", description="on or off: the cockpit page at /; empty means on in development only"
    )

    max_message_tokens: int = Field(
        4000,
        alias="FREYA_MAX_MESSAGE_TOKENS",
        ge=1,
        description="longest message of a user, in tokens; longer ones get 413",
    )
    beat_seconds: float = Field(
        15.0, alias="FREYA_BEAT_SECONDS", gt=0, le=240, description="seconds between two `beat` events"
    )
    rotate_seconds: float = Field(
        780.0,
        alias="FREYA_ROTATE_SECONDS",
        gt=0,
        description="longest life of a stream; each ends at a random 61-100 % of it (8-13 min)",
    )
    slow_seconds: float = Field(
        20.0, alias="FREYA_SLOW_SECONDS", gt=0, description="seconds that a reader may leave its socket full"
    )
    streams_per_user: int = Field(
        8, alias="FREYA_STREAMS_PER_USER", ge=1, description="open streams of one user; the oldest gives way"
    )
    max_streams: int = Field(
        10_000, alias="FREYA_MAX_STREAMS", ge=1, description="open streams of this process; more are told to come back"
    )
    max_turns: int = Field(
        500, alias="FREYA_MAX_TURNS", ge=1, description="turns that this process runs at once; more wait in the queue"
    )
    lease_seconds: float = Field(
        15.0, alias="FREYA_LEASE_SECONDS", gt=0, description="seconds after which a lost process's turns are taken over"
    )
    grace_seconds: float = Field(
        25.0,
        alias="FREYA_GRACE_SECONDS",
        ge=0,
        description="seconds that running turns get at SIGTERM; the platform must wait longer",
    )
    retention_hours: float = Field(
        24.0,
        alias="FREYA_RETENTION_HOURS",
        gt=0,
        description="hours that the event log can be resumed from; messages stay for ever",
    )
    worker: bool = Field(
        True,
        alias="FREYA_WORKER",
        description="on or off: memory work in this process; off where `freya worker` runs beside the gateway",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="FREYA_LOG_LEVEL", description="least severe line that is logged"
    )

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip().rstrip("/") for part in value.split(",") if part.strip())
        return value

    @field_validator("database_url")
    @classmethod
    def _known_scheme(cls, value: SecretStr | None) -> SecretStr | None:
        if value and urlsplit(value.get_secret_value()).scheme not in {"postgres", "postgresql"}:
            raise ValueError("DATABASE_URL must start with postgres:// or postgresql://")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = [*self._authentication_problems(), *self._production_problems()]
        if problems:
            raise ConfigurationError("\n".join(problems))
        return self

    @property
    def production(self) -> bool:
        return self.env == "production"

    @property
    def users_by_key(self) -> dict[str, str]:
        """API key -> user, as given in FREYA_API_KEYS."""
        pairs = (entry.partition(":") for entry in self._key_entries)
        return {key.strip(): user.strip() for key, _, user in pairs}

    @property
    def _key_entries(self) -> list[str]:
        entries = (self.api_keys.get_secret_value() if self.api_keys else "").split(",")
        return [entry.strip() for entry in entries if entry.strip()]

    @property
    def authenticates(self) -> bool:
        """Whether any credential is asked for; without, everyone on loopback is the user `owner`."""
        return bool(self.api_keys or self.jwt_secret or self.jwks_url)

    @property
    def local_model(self) -> bool:
        return self.openai_api_key is None and self.openai_base_url is None

    @property
    def serves_cockpit(self) -> bool:
        return self.cockpit if self.cockpit is not None else not self.production

    def _key_problems(self) -> list[str]:
        problems: list[str] = []
        if len(self.users_by_key) < len(self._key_entries):
            problems.append("FREYA_API_KEYS: a key stands there twice; give each user their own")
        for key, user in self.users_by_key.items():
            if not user:
                problems.append("FREYA_API_KEYS: every entry must read key:user, separated by commas")
            elif len(key) < MIN_API_KEY_LENGTH or _repetitive(key):
                problems.append(
                    f"FREYA_API_KEYS: the key of user {user!r} is weak; take one from `openssl rand -hex 24`"
                )
        return problems

    def _authentication_problems(self) -> list[str]:
        problems = self._key_problems()
        secret = self.jwt_secret.get_secret_value() if self.jwt_secret else None
        if secret is not None and (len(secret.encode()) < MIN_SECRET_BYTES or _repetitive(secret)):
            problems.append("FREYA_JWT_SECRET is weak; take one from `openssl rand -hex 32`")
        if self.jwks_url and not (self.jwt_issuer and self.jwt_audience):
            problems.append(
                "FREYA_JWKS_URL needs FREYA_JWT_ISSUER and FREYA_JWT_AUDIENCE, or any customer of that provider gets in"
            )
        if "*" in self.allowed_origins:
            problems.append("FREYA_ALLOWED_ORIGINS: name each origin; * would let any page speak for a user")
        if not self.authenticates and not _loopback(self.host):
            problems.append(
                f"HOST={self.host} is reachable from outside, but nobody has to sign in: set FREYA_API_KEYS, FREYA_JWT_SECRET or FREYA_JWKS_URL, or listen on 127.0.0.1"
            )
        return problems

    def _production_problems(self) -> list[str]:
        if not self.production:
            return []
        problems: list[str] = []
        if not self.authenticates:
            problems.append(
                "FREYA_ENV=production needs authentication: set FREYA_API_KEYS, FREYA_JWT_SECRET or FREYA_JWKS_URL"
            )
        if self.database_url is None:
            problems.append("FREYA_ENV=production needs DATABASE_URL: the embedded PostgreSQL is for development")
        if self.local_model:
            problems.append(
                "FREYA_ENV=production needs OPENAI_API_KEY (or OPENAI_BASE_URL): the local model is for development"
            )
        if self.jwks_url and not self.jwks_url.startswith("https://"):
            problems.append("FREYA_JWKS_URL must be https:// in production")
        return problems


def load_settings() -> Settings:
    """Settings from the environment. Raises ConfigurationError with one line per problem."""
    try:
        return Settings()  # pyright: ignore[reportCallIssue]  (every field has a default; aliases hide it)
    except ValueError as error:
        raise ConfigurationError(_explain(error)) from error


def _explain(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return str(error)
    return "\n".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())


def _repetitive(secret: str) -> bool:
    return len(set(secret)) < MIN_DISTINCT_CHARACTERS


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
