"""The command `freya`: what it says about settings, and what it never says."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from freya_gateway.cli import commands
from freya_gateway.settings import Settings

NOTHING_LISTENS = "http://127.0.0.1:9/v1"
SECRETS = {
    "DATABASE_URL": "postgresql://freya:database-secret@127.0.0.1:9/freya?password=option-secret",
    "OPENAI_API_KEY": "sk-model-secret",
    "OPENAI_BASE_URL": NOTHING_LISTENS,
    "FREYA_JWT_SECRET": "jwt-secret-0123456789abcdefghijklmnopqrstuv",
    "FREYA_API_KEYS": "api-secret-0123456789abcdef:ada",
}


class Freya:
    """Runs `freya` with an environment of its own, on a wide screen."""

    def __init__(self) -> None:
        aliases = [field.alias for field in Settings.model_fields.values() if field.alias]
        self._nothing: dict[str, str | None] = dict.fromkeys(aliases)

    def __call__(self, *arguments: str, given: str | None = None, **environment: str) -> tuple[int, str]:
        """Exit code and everything written."""
        surroundings = self._nothing | {"COLUMNS": "240", "NO_COLOR": "1"} | environment
        result = CliRunner().invoke(commands, arguments, env=surroundings, input=given)
        return result.exit_code, result.output


@pytest.fixture
def freya(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Freya:
    monkeypatch.chdir(tmp_path)  # no .env of the checkout
    return Freya()


def test_every_command_is_listed_with_what_it_does(freya: Freya) -> None:
    code, output = freya("--help")
    assert code == 0
    assert {"serve", "worker", "chat", "doctor", "db"} <= set(output.split())


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["db", "upgrade"], ["db", "current"], ["db", "shell"]])
def test_wrong_settings_are_explained_without_a_traceback(freya: Freya, command: list[str]) -> None:
    code, output = freya(*command, FREYA_ENV="production")
    assert code == 2
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if not line.startswith("freya: ")] == []
    assert "FREYA_ENV=production needs authentication" in output
    assert "FREYA_ENV=production needs DATABASE_URL" in output
    assert "FREYA_ENV=production needs OPENAI_API_KEY" in output


def test_a_value_of_the_wrong_kind_is_named(freya: Freya) -> None:
    code, output = freya("serve", PORT="99999")
    assert code == 2
    assert "PORT" in output


def test_serving_needs_a_database_that_answers(freya: Freya) -> None:
    code, output = freya("serve", **SECRETS)
    assert code == 2
    assert "cannot be reached" in output


@pytest.mark.parametrize("command", [["doctor"], ["serve"], ["db", "upgrade"], ["db", "current"], ["db", "shell"]])
def test_no_secret_is_ever_shown(freya: Freya, command: list[str]) -> None:
    _, output = freya(*command, **SECRETS)
    assert "postgresql://freya:***@127.0.0.1:9/freya" in output
    assert "-secret" not in output


def test_the_doctor_says_what_is_wrong_and_what_to_do(freya: Freya) -> None:
    code, output = freya("doctor", **SECRETS, FREYA_PERSONA="missing.md")
    assert code == 1
    lines = {line.split("│")[2].strip(): line for line in output.splitlines() if line.count("│") == 5}
    assert "valid, for development" in lines["settings"]
    assert "API keys, JWT, shared secret" in lines["authentication"]
    assert "missing.md: FileNotFoundError" in lines["persona"]
    assert "Correct FREYA_PERSONA" in lines["persona"]
    assert "Correct DATABASE_URL or start the server" in lines["database"]
    assert f"gpt-4.1-mini at {NOTHING_LISTENS}" in lines["model"]
    assert "cannot be reached" in lines["model"]


def test_the_doctor_explains_wrong_settings(freya: Freya) -> None:
    code, output = freya("doctor", FREYA_JWT_SECRET="short", HOST="0.0.0.0")
    assert code == 1
    assert "FREYA_JWT_SECRET is weak" in output


def test_the_doctor_starts_nothing(freya: Freya, tmp_path: Path) -> None:
    code, output = freya("doctor", OPENAI_BASE_URL=NOTHING_LISTENS)
    assert "not running" in output or "install the extra `local`" in output
    assert code == 1
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_reads_the_persona(freya: Freya, tmp_path: Path) -> None:
    (tmp_path / "freya.md").write_text("You are Freya.")
    (tmp_path / "empty.md").write_text("\n")
    assert "freya.md, 14 characters" in freya("doctor", FREYA_PERSONA="freya.md")[1]
    assert "empty.md is empty" in freya("doctor", FREYA_PERSONA="empty.md")[1]


def test_the_doctor_needs_a_folder_to_write_in(freya: Freya, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not writable" in freya("doctor", FREYA_DATA_DIR="file/data")[1]


def test_the_doctor_names_the_jwks_url_as_what_nobody_can_sign_in_with(freya: Freya) -> None:
    environment = {"FREYA_JWKS_URL": f"{NOTHING_LISTENS}/keys", "FREYA_JWT_ISSUER": "i", "FREYA_JWT_AUDIENCE": "a"}
    code, output = freya("doctor", **environment)
    assert code == 1
    assert "FREYA_JWKS_URL cannot be reached" in output


def test_chat_says_that_no_gateway_answers(freya: Freya) -> None:
    code, output = freya("chat", "Hello", "--url", "http://127.0.0.1:9")
    assert code == 2
    assert "No gateway answers there" in output
