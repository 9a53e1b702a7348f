"""What settings are accepted, what each refusal says, and that `.env.example` shows all of them."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from freya_gateway.errors import ConfigurationError
from freya_gateway.settings import Settings, load_settings

EXAMPLE = Path(__file__).resolve().parents[2] / ".env.example"
KEY = "0123456789abcdef01234567"
OTHER_KEY = "fedcba9876543210fedcba98"
SECRET = "0123456789abcdef0123456789abcdef"
JWKS = {"jwks_url": "https://id.example/keys", "jwt_issuer": "https://id.example", "jwt_audience": "freya"}
PRODUCTION = {
    "env": "production",
    "database_url": "postgresql://freya@db.example/freya",
    "openai_api_key": "sk-test",
    "jwt_secret": SECRET,
}
ALIASES = {name: field.alias or "" for name, field in Settings.model_fields.items()}


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting from the environment, no `.env` of the checkout."""
    monkeypatch.chdir(tmp_path)
    for alias in ALIASES.values():
        monkeypatch.delenv(alias, raising=False)


def settings(**values: Any) -> Settings:
    return Settings(_env_file=None, **values)  # pyright: ignore[reportCallIssue]


def refusal(**values: Any) -> str:
    """What is said when these settings are refused."""
    with pytest.raises((ConfigurationError, ValidationError)) as refused:
        settings(**values)
    return str(refused.value)


def test_defaults_run_on_a_laptop() -> None:
    given = settings()
    assert (given.env, given.host, given.port) == ("development", "127.0.0.1", 8000)
    assert given.database_url is None
    assert given.local_model
    assert not given.authenticates
    assert not given.production
    assert given.serves_cockpit


def test_production_starts_with_authentication_database_and_model() -> None:
    given = settings(**PRODUCTION, host="0.0.0.0")
    assert given.production
    assert given.authenticates
    assert not given.local_model
    assert not given.serves_cockpit


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("jwt_secret", "needs authentication: set FREYA_API_KEYS, FREYA_JWT_SECRET or FREYA_JWKS_URL"),
        ("database_url", "needs DATABASE_URL: the embedded PostgreSQL is for development"),
        ("openai_api_key", "needs OPENAI_API_KEY (or OPENAI_BASE_URL): the local model is for development"),
    ],
)
def test_production_refuses_to_start_without(missing: str, said: str) -> None:
    assert refusal(**(PRODUCTION | {missing: None})) == f"FREYA_ENV=production {said}"


def test_every_problem_is_told_at_once() -> None:
    lines = refusal(env="production", host="0.0.0.0").splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("HOST=0.0.0.0 is reachable from outside")


def test_production_takes_an_endpoint_of_ones_own_as_model() -> None:
    given = settings(**(PRODUCTION | {"openai_api_key": None, "openai_base_url": "http://vllm:8000/v1"}))
    assert not given.local_model


def test_production_fetches_public_keys_over_https_only() -> None:
    over_http = PRODUCTION | {"jwt_secret": None} | JWKS | {"jwks_url": "http://id.example/keys"}
    assert refusal(**over_http) == "FREYA_JWKS_URL must be https:// in production"
    assert settings(**(over_http | {"env": "development"})).authenticates


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "freya.example", "fe80::1"])
def test_open_gateway_listens_on_loopback_only(host: str) -> None:
    said = refusal(host=host)
    assert said.startswith(f"HOST={host} is reachable from outside, but nobody has to sign in")
    assert said.endswith("or listen on 127.0.0.1")
    assert settings(host=host, jwt_secret=SECRET).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.9", "::1", "localhost"])
def test_open_gateway_may_listen_on(host: str) -> None:
    assert settings(host=host).host == host


@pytest.mark.parametrize("secret", ["short", "a" * 64, "abcdefg" * 9, SECRET[:31]])
def test_weak_jwt_secret_is_refused_without_repeating_it(secret: str) -> None:
    said = refusal(jwt_secret=secret)
    assert said == "FREYA_JWT_SECRET is weak; take one from `openssl rand -hex 32`"


@pytest.mark.parametrize("key", ["short", "a" * 48, KEY[:23], ""])
def test_weak_api_key_is_refused_without_repeating_it(key: str) -> None:
    said = refusal(api_keys=f"{key}:ada")
    assert said == "FREYA_API_KEYS: the key of user 'ada' is weak; take one from `openssl rand -hex 24`"


@pytest.mark.parametrize("keys", [KEY, f"{KEY}:", f"{KEY}:ada,{OTHER_KEY}"])
def test_api_key_without_a_user_is_refused(keys: str) -> None:
    said = refusal(api_keys=keys)
    assert said == "FREYA_API_KEYS: every entry must read key:user, separated by commas"


def test_one_key_for_two_users_is_refused() -> None:
    said = refusal(api_keys=f"{KEY}:ada,{KEY}:bea")
    assert said == "FREYA_API_KEYS: a key stands there twice; give each user their own"


def test_one_user_may_have_two_keys() -> None:
    assert settings(api_keys=f"{KEY}:ada,{OTHER_KEY}:ada").users_by_key == {KEY: "ada", OTHER_KEY: "ada"}


def test_api_keys_name_their_users() -> None:
    given = settings(api_keys=f" {KEY}:ada , {OTHER_KEY}: user:with:colons ,")
    assert given.users_by_key == {KEY: "ada", OTHER_KEY: "user:with:colons"}
    assert given.authenticates


@pytest.mark.parametrize("missing", ["jwt_issuer", "jwt_audience"])
def test_public_keys_need_issuer_and_audience(missing: str) -> None:
    said = refusal(**(JWKS | {missing: None}))
    assert said.startswith("FREYA_JWKS_URL needs FREYA_JWT_ISSUER and FREYA_JWT_AUDIENCE")
    assert settings(**JWKS).authenticates


def test_origins_are_a_list_of_names() -> None:
    given = settings(allowed_origins=" https://freya.example/, http://localhost:3000 ,")
    assert given.allowed_origins == ("https://freya.example", "http://localhost:3000")
    assert settings(allowed_origins=("https://a.example",)).allowed_origins == ("https://a.example",)


def test_wildcard_origin_is_refused() -> None:
    said = refusal(allowed_origins="https://freya.example,*")
    assert said == "FREYA_ALLOWED_ORIGINS: name each origin; * would let any page speak for a user"


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
def test_database_url_of_both_spellings(scheme: str) -> None:
    assert settings(database_url=f"{scheme}://freya@db.example/freya").database_url is not None


@pytest.mark.parametrize("url", ["mysql://db.example/freya", "postgresql+asyncpg://db.example/freya", "db.example"])
def test_other_database_is_refused(url: str) -> None:
    assert "DATABASE_URL must start with postgres:// or postgresql://" in refusal(database_url=url)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("env", "staging"),
        ("port", 65536),
        ("port", -1),
        ("database_pool", 1),
        ("database_pool", 101),
        ("temperature", 2.1),
        ("frequency_penalty", -2.1),
        ("presence_penalty", 2.1),
        ("max_reply_tokens", 0),
        ("context_tokens", 1999),
        ("first_piece_timeout", 0),
        ("piece_timeout", 0),
        ("rate_limit", -1),
        ("max_message_tokens", 0),
        ("beat_seconds", 241),
        ("rotate_seconds", 0),
        ("slow_seconds", 0),
        ("streams_per_user", 0),
        ("max_streams", 0),
        ("max_turns", 0),
        ("lease_seconds", 0),
        ("grace_seconds", -1),
        ("retention_hours", 0),
        ("log_level", "TRACE"),
    ],
)
def test_value_out_of_range_is_refused_by_its_name(name: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ALIASES[name], str(value))
    with pytest.raises(ConfigurationError, match=f"^{ALIASES[name]}: Input should be "):
        load_settings()


@pytest.mark.parametrize(("cockpit", "env", "served"), [(True, "production", True), (False, "development", False)])
def test_cockpit_can_be_switched(cockpit: bool, env: str, served: bool) -> None:
    assert settings(**(PRODUCTION | {"cockpit": cockpit, "env": env})).serves_cockpit is served


def test_environment_is_read_by_alias(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {
        "FREYA_ENV": "production",
        "HOST": "0.0.0.0",
        "PORT": "9000",
        "DATABASE_URL": "postgres://freya:hidden@db.example/freya",
        "OPENAI_API_KEY": "sk-hidden",
        "FREYA_MODEL": "ft:freya",
        "FREYA_API_KEYS": f"{KEY}:ada",
        "FREYA_ALLOWED_ORIGINS": "https://freya.example",
        "FREYA_COCKPIT": "on",
        "FREYA_PERSONA": "",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    given = load_settings()
    assert (given.env, given.host, given.port, given.model) == ("production", "0.0.0.0", 9000, "ft:freya")
    assert given.openai_api_key == SecretStr("sk-hidden")
    assert given.allowed_origins == ("https://freya.example",)
    assert given.cockpit is True
    assert given.persona is None  # an empty variable is one that is not set
    assert "hidden" not in repr(given)
    assert KEY not in repr(given)


def test_env_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("PORT=9001\nFREYA_MODEL=from-the-file\nSOMETHING_ELSE=1\n")
    monkeypatch.setenv("PORT", "9002")
    given = load_settings()
    assert (given.port, given.model) == (9002, "from-the-file")


def test_refusals_name_the_variable_and_not_its_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "eight-thousand")
    monkeypatch.setenv("DATABASE_URL", "mysql://freya:hidden@db.example/freya")
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == ["PORT", "DATABASE_URL"]
    assert "hidden" not in str(refused.value)
    assert "eight-thousand" not in str(refused.value)


def test_refusals_of_combinations_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FREYA_JWT_SECRET", "weak")
    with pytest.raises(ConfigurationError, match="FREYA_JWT_SECRET is weak"):
        load_settings()


def test_example_shows_every_setting_once_with_its_default_and_meaning() -> None:
    entry = re.compile(r"^# (.+)\n# ([A-Z_]+)=(.*)$", re.MULTILINE)
    shown = [(alias, default, meaning) for meaning, alias, default in entry.findall(EXAMPLE.read_text("utf-8"))]
    fields = Settings.model_fields.values()
    assert sorted(shown) == sorted((field.alias, _written(field.default), field.description) for field in fields)


def test_example_sets_nothing() -> None:
    lines = EXAMPLE.read_text("utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []


def test_example_is_valid_as_it_stands(tmp_path: Path) -> None:
    entries = re.findall(r"^# ([A-Z_]+=.*)$", EXAMPLE.read_text("utf-8"), re.MULTILINE)
    (tmp_path / ".env").write_text("\n".join(entries), "utf-8")
    assert load_settings() == settings()


def _written(default: object) -> str:
    """A default as one would write it into the environment."""
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)
