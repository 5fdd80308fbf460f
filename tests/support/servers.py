"""Real PostgreSQL and MariaDB servers for tests: their own, in temporary directories, as an ordinary user.

Nothing of the system's clusters or configuration is used.  `url` is a URL of the UNIX socket, `tcp_url` one
of 127.0.0.1; neither holds the password.  MariaDB always asks for `password`, PostgreSQL only over TCP.
"""

import atexit
import fcntl
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import psycopg
import pymysql
import pytest
from psycopg import sql

from tests.support.scratch import quick_directory

How = Literal["fast", "immediate"]
NAME = "novactl"  # the role, and the database that is there from the start
PATIENCE = 30.0  # seconds for a start or a stop, on the slowest machine
PATH = "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/bin"


class ServerError(Exception):
    """A server could not be found, made, started or stopped."""


def program(name: str) -> str:
    """Where a server's program is; the newest PostgreSQL that is installed."""
    versions = Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda path: float(path.parent.name), reverse=True)
    found = shutil.which(name, path=":".join([*map(str, newest_first), PATH]))
    if found is None:
        raise ServerError(f"no {name} here: install the packages of scripts/packages.tests.debian")
    return found


def state(pid: int) -> tuple[str, int] | None:
    """A process's state letter and parent; None when it is gone, even if nobody has reaped it."""
    try:
        letter, parent, *_ = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if letter in "ZX" else (letter, int(parent))


def _wait(seconds: float, what: str, done: Any) -> None:
    """Poll until `done()`."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise ServerError(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


def _reserve() -> socket.socket:
    """A port of 127.0.0.1 that nobody else is given while this is open: bound, never listening, so that a
    server (they all set SO_REUSEADDR) can listen there, again after each restart."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    return held


def _sweep(directory: Path) -> None:
    """Remove what a test process left that was killed: nobody holds its lock."""
    try:
        lock = os.open(directory / "lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(lock)


def _new_directory(prefix: str) -> tuple[Path, int]:
    """A directory with a short path, and the lock that keeps others from sweeping it away."""
    base = quick_directory() or Path("/tmp")
    for left in base.glob(f"{prefix}*"):
        _sweep(left)
    directory = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    lock = os.open(directory / "lock.new", os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    (directory / "lock.new").rename(directory / "lock")
    return directory, lock


class Server(ABC):
    """One server with its data, from its first `start` to `close` or the end of this process."""

    KIND: ClassVar[str]
    ACCOUNT: ClassVar[str]  # who runs it when the tests run as root
    FAST: ClassVar[signal.Signals]  # an orderly stop that does not wait for clients
    ORPHANED: ClassVar[str]  # the signal it gets when the test process dies
    REFUSAL: ClassVar[type[Exception]]  # what its driver raises while it does not answer

    def __init__(self, durable: bool = False) -> None:
        self.durable = durable
        self.password = secrets.token_urlsafe(12) + "@:/%?#&+ ="  # nothing that is safe in a URL by luck
        self.directory, self._lock = _new_directory(f"{NAME}-{self.KIND}-")
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._port = _reserve()
        self.port = int(self._port.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None
        self._furnished = False
        self._owner = os.getpid()
        self._account: pwd.struct_passwd | None = None
        if os.geteuid() == 0:
            self._account = self._ordinary()
            os.chown(self.directory, self._account.pw_uid, self._account.pw_gid)
        atexit.register(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The first database, by the UNIX socket."""
        return self.url_of(NAME)

    @property
    def tcp_url(self) -> str:
        """The first database, by TCP."""
        return self.url_of(NAME, tcp=True)

    @property
    def pid(self) -> int | None:
        """The server's process; None when it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def pids(self) -> set[int]:
        """Every process of the server."""
        main = self.pid
        if main is None:
            return set()
        running = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        return {main} | {pid for pid in running if (known := state(pid)) and known[1] == main}

    def start(self) -> None:
        """Start it, if it does not run, and return when it answers."""
        if self.pid is not None:
            return
        if threading.current_thread() is not threading.main_thread():
            raise ServerError("started by a thread, it would die with the thread: start it in the main one")
        if not self.data.exists():
            self._initialise()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._as_user(self._argv(), "--pdeathsig", self.ORPHANED), stdout=log, **self._surroundings()
            )
        try:
            _wait(PATIENCE, f"{self.KIND} answers", self._answers)
            if not self._furnished:
                self._furnish()
                self.create_database(NAME)
                self._furnished = True
        except BaseException as error:
            self.stop("immediate")
            if isinstance(error, ServerError):
                raise ServerError(f"{error}\n{self.tail()}") from None
            raise

    def stop(self, how: How = "fast") -> None:
        """Stop it: "fast" in order, though no client is waited for; "immediate" as a crash, by SIGKILL."""
        if self._process is None or self.pid is None:
            return
        if how == "immediate":
            self._kill(self._process)
            return
        self._process.send_signal(self.FAST)
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._kill(self._process)
            raise ServerError(f"{self.KIND} does not stop\n{self.tail()}") from None

    def restart(self, how: How = "fast") -> None:
        """Stop and start it; its URLs stay."""
        self.stop(how)
        self.start()

    def close(self) -> None:
        """Stop it for good and remove all it had.  In a forked child this does nothing."""
        if self._owner != os.getpid() or self._lock < 0:
            return
        atexit.unregister(self.close)
        try:
            self.stop()
        finally:
            self._remove()
            self._port.close()
            os.close(self._lock)
            self._lock = -1

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    @abstractmethod
    def url_of(self, database: str, *, tcp: bool = False) -> str:
        """A URL of one of its databases, without a password."""

    @abstractmethod
    def create_database(self, name: str) -> str:
        """Make an empty database in which the role `novactl` may do all, and return its URL."""

    @abstractmethod
    def drop_database(self, name: str) -> None:
        """Remove a database, if it is there, whoever is still connected to it."""

    @abstractmethod
    def execute(self, *statements: Any) -> None:
        """Run statements as the server's administrator, each on its own."""

    @abstractmethod
    def _init_argv(self) -> list[str]: ...

    @abstractmethod
    def _argv(self) -> list[str]: ...

    @abstractmethod
    def _furnish(self) -> None:
        """What a new server needs once it runs."""

    def _remove(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @classmethod
    def _ordinary(cls) -> pwd.struct_passwd:
        try:
            return pwd.getpwnam(cls.ACCOUNT)
        except KeyError:
            return pwd.getpwnam("nobody")

    def _as_user(self, argv: list[str], *options: str) -> list[str]:
        if self._account is not None:
            ids = ("--reuid", str(self._account.pw_uid), "--regid", str(self._account.pw_gid))
            options = (*ids, "--clear-groups", *options)
        return ["setpriv", *options, "--", *argv] if options else argv

    def _surroundings(self) -> dict[str, Any]:
        """No settings of the caller's environment, no terminal, no signal of its process group."""
        return {
            "stdin": subprocess.DEVNULL,
            "stderr": subprocess.STDOUT,
            "cwd": self.directory,
            "env": {"PATH": PATH, "LC_ALL": "C.UTF-8"},
            "start_new_session": True,
        }

    def _initialise(self) -> None:
        argv = self._as_user(self._init_argv(), "--pdeathsig", "KILL")
        with self.log.open("ab") as log:
            ended = subprocess.run(argv, stdout=log, **self._surroundings(), check=False)
        if ended.returncode != 0:
            shutil.rmtree(self.data, ignore_errors=True)
            raise ServerError(f"{self.KIND} cannot be initialised\n{self.tail()}")

    def _answers(self) -> bool:
        if self.pid is None:
            raise ServerError(f"{self.KIND} ended at its start")
        try:
            self.execute("SELECT 1")
        except self.REFUSAL:
            return False
        return True

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL for all of its processes; the main one is stopped first so that it makes no more."""
        process.send_signal(signal.SIGSTOP)
        _wait(PATIENCE, f"{self.KIND} holds still", lambda: (state(process.pid) or "T")[0] in "Tt")
        processes = self.pids() | {process.pid}
        for pid in processes - {process.pid}:
            os.kill(pid, signal.SIGKILL)  # at worst a zombie: its parent cannot reap it now
        process.kill()
        process.wait()
        _wait(PATIENCE, f"{self.KIND} is gone", lambda: not any(map(state, processes)))


def _checked(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,62}", name):
        raise ValueError(f"{name!r} is no name for a database")
    return name


class PostgresServer(Server):
    """PostgreSQL.  Its role `novactl` owns its databases and is no superuser."""

    KIND = "postgresql"
    ACCOUNT = "postgres"
    FAST = signal.SIGINT
    ORPHANED = "QUIT"  # KILL would spare its backends
    REFUSAL = psycopg.OperationalError

    def url_of(self, database: str, *, tcp: bool = False) -> str:
        if tcp:
            return f"postgresql://{NAME}@127.0.0.1:{self.port}/{database}"
        return f"postgresql://{NAME}@/{database}?host={self.directory}"

    def create_database(self, name: str) -> str:
        self.execute(f"CREATE DATABASE {_checked(name)} OWNER {NAME}")
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        self.execute(f"DROP DATABASE IF EXISTS {_checked(name)} WITH (FORCE)")

    def execute(self, *statements: Any) -> None:
        place = {"host": str(self.directory), "port": self.port, "dbname": "postgres", "user": "postgres"}
        with psycopg.connect(**place, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def _init_argv(self) -> list[str]:
        return [
            *(program("initdb"), "--pgdata", str(self.data), "--username", "postgres"),
            *("--auth-local", "trust", "--auth-host", "scram-sha-256"),  # the directory keeps others out
            # Sorted as people do, like most servers: what relies on the order of bytes has to ask for it.
            *("--locale-provider", "icu", "--icu-locale", "en-US", "--locale", "C.UTF-8"),
            *("--encoding", "UTF8", "--wal-segsize", "4", "--no-sync"),
        ]

    def _argv(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.directory,
            "max_connections": 200,
            "shared_buffers": "32MB",
            "min_wal_size": "16MB",
            "max_wal_size": "64MB",
            "dynamic_shared_memory_type": "mmap",  # files of the directory: a crash leaves nothing elsewhere
            "huge_pages": "off",
            "fsync": "on" if self.durable else "off",
            "full_page_writes": "on" if self.durable else "off",
        }
        settings = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        return [program("postgres"), "-D", str(self.data), *settings]

    def _furnish(self) -> None:
        # The socket is named after the port; a URL without a port means the usual one.
        (self.directory / ".s.PGSQL.5432").symlink_to(f".s.PGSQL.{self.port}")
        role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}")
        self.execute(role.format(sql.Identifier(NAME), sql.Literal(self.password)))

    def _remove(self) -> None:
        """A server that was killed has left a few bytes of System V memory."""
        status = self.data / "postmaster.pid"
        if status.exists():
            words = status.read_text().split()
            subprocess.run(["ipcrm", "-m", words[-2]], check=False, capture_output=True)
        super()._remove()


class MariadbServer(Server):
    """MariaDB, utf8mb4.  Its user `novactl` has all rights in its databases and none elsewhere."""

    KIND = "mariadb"
    ACCOUNT = "mysql"
    FAST = signal.SIGTERM
    ORPHANED = "KILL"
    REFUSAL = pymysql.err.OperationalError
    SIZES = ("--innodb-log-file-size=8M", "--aria-log-file-size=8M")

    def __init__(self, durable: bool = False) -> None:
        super().__init__(durable)
        self.socket = self.directory / "socket"
        self._secret = secrets.token_urlsafe(12)

    def url_of(self, database: str, *, tcp: bool = False) -> str:
        if tcp:
            return f"mysql://{NAME}@127.0.0.1:{self.port}/{database}"
        return f"mysql://{NAME}@localhost/{database}?unix_socket={self.socket}"

    def create_database(self, name: str) -> str:
        pattern = _checked(name).replace("_", r"\_")
        self.execute(f"CREATE DATABASE `{name}`", f"GRANT ALL ON `{pattern}`.* TO {NAME}")
        return self.url_of(name)

    def drop_database(self, name: str) -> None:
        with self._admin() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE db = %s", (_checked(name),))
            for (client,) in cursor.fetchall():
                try:
                    cursor.execute(f"KILL {client}")
                except pymysql.err.OperationalError as error:
                    if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
                        raise
            cursor.execute(f"DROP DATABASE IF EXISTS `{name}`")

    def execute(self, *statements: Any) -> None:
        with self._admin() as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def _admin(self) -> pymysql.Connection:
        return pymysql.connect(
            unix_socket=str(self.socket), user="admin", password=self._secret, autocommit=True
        )

    def _initialise(self) -> None:
        """The administrator comes with the first start, before anyone can connect."""
        start = self.directory / "init.sql"
        start.write_text(
            f"CREATE USER IF NOT EXISTS admin@localhost IDENTIFIED BY '{self._secret}';\n"
            "GRANT ALL ON *.* TO admin@localhost WITH GRANT OPTION;\n"
        )
        super()._initialise()

    def _init_argv(self) -> list[str]:
        return [
            *(program("mariadb-install-db"), "--no-defaults", f"--datadir={self.data}", "--skip-test-db"),
            *("--auth-root-authentication-method=socket", "--auth-root-socket-user=root"),
            *("--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", *self.SIZES),
        ]

    def _argv(self) -> list[str]:
        return [
            *(program("mariadbd"), "--no-defaults", f"--datadir={self.data}", f"--tmpdir={self.directory}"),
            *(f"--socket={self.socket}", f"--port={self.port}", "--bind-address=127.0.0.1"),
            *(f"--pid-file={self.directory / 'pid'}", f"--init-file={self.directory / 'init.sql'}"),
            *("--skip-name-resolve", "--skip-log-bin", "--performance-schema=OFF", "--max-connections=200"),
            *("--character-set-server=utf8mb4", "--key-buffer-size=1M", "--aria-pagecache-buffer-size=8M"),
            *("--innodb-buffer-pool-size=32M", "--innodb-use-native-aio=OFF", *self.SIZES),
            f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",  # 0 loses commits
            f"--innodb-doublewrite={'ON' if self.durable else 'OFF'}",
        ]

    def _furnish(self) -> None:
        self.execute(f"CREATE USER {NAME} IDENTIFIED BY '{self.password}'")


@cache
def _shared(kind: type[Server]) -> Server:
    """One server of each kind for the whole run, however many modules import the fixtures."""
    return kind()


@pytest.fixture(scope="session")
def postgres() -> Server:
    """The run's PostgreSQL; a test makes databases of its own in it."""
    server = _shared(PostgresServer)
    server.start()
    return server


@pytest.fixture(scope="session")
def mariadb() -> Server:
    """The run's MariaDB; a test makes databases of its own in it."""
    server = _shared(MariadbServer)
    server.start()
    return server
