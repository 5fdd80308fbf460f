"""Which database a URL means, and where its password comes from."""

import os
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from novactl.db.session import Database
from novactl.db.sqlite import SqliteDatabase
from novactl.errors import DatabaseError, UsageError

DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mysql+pymysql",
}
MODULES = {"postgresql+psycopg": ("psycopg", "postgresql"), "mysql+pymysql": ("pymysql", "mysql")}
EXAMPLES = "sqlite:///PATH, postgresql://USER@HOST/NAME or mysql://USER@HOST/NAME"
SECRETIVE = ("password", "passwd", "sslpassword", "ssl_key_password", "oauth_client_secret")


def database(url: str | None, default: Path) -> Database:
    """The database that a URL or a path names; the default file without one. Raises UsageError when it
    cannot be understood or holds a password, DatabaseError when its driver is not installed."""
    if url is None:
        return SqliteDatabase(default)
    try:
        parts = urlsplit(url)
    except ValueError as error:  # its words may hold a password
        raise UsageError("--db: cannot be understood", hint=EXAMPLES) from error
    if parts.password is not None or any(name in parse_qs(parts.query) for name in SECRETIVE):
        raise UsageError(
            "--db holds a password", hint="$NOVACTL_DB_PASSWORD, or the server's own password file"
        )
    if parts.scheme == "":
        return SqliteDatabase(Path(url).absolute())
    if parts.scheme == "sqlite":
        if parts.netloc or not parts.path.strip("/"):
            raise UsageError(f"--db {url}: names no file", hint="sqlite:///PATH")
        return SqliteDatabase(Path(unquote(parts.path)))
    if parts.scheme not in DRIVERS:
        raise UsageError(f"--db {parts.scheme}: is not known", hint=EXAMPLES)
    if not parts.path.strip("/"):
        raise UsageError(f"--db {url}: names no database", hint=EXAMPLES)
    return _server(DRIVERS[parts.scheme] + url[len(parts.scheme) :])


def _server(url: str) -> Database:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import SQLAlchemyError

    from novactl.db.servers import ServerDatabase

    try:
        found = make_url(url)
    except (SQLAlchemyError, ValueError) as error:
        raise UsageError("--db: cannot be understood", hint=EXAMPLES) from error
    module, extra = MODULES[found.drivername]
    try:
        __import__(module)
    except ImportError as error:
        raise DatabaseError(
            f"--db: {module} is not installed", hint=f"pip install 'novactl[{extra}]'"
        ) from error
    arguments: dict[str, object] = {"connect_timeout": 5}
    if module == "psycopg":
        arguments |= {"prepare_threshold": None, "application_name": "novactl", "client_encoding": "utf8"}
        arguments |= {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 4}
        arguments |= {"tcp_user_timeout": 30_000}  # milliseconds
    else:
        arguments |= {"charset": "utf8mb4", "read_timeout": 60, "write_timeout": 30}
    if (password := _password()) is not None:
        arguments["password"] = password
    return ServerDatabase(found, arguments)


def _password() -> str | None:
    """$NOVACTL_DB_PASSWORD, or the first line of the file $NOVACTL_DB_PASSWORD_FILE; without them the
    driver's own ways hold (~/.pgpass, PGPASSFILE; ?read_default_file= for MySQL)."""
    if (password := os.environ.get("NOVACTL_DB_PASSWORD")) is not None:
        return password
    if (file := os.environ.get("NOVACTL_DB_PASSWORD_FILE")) is None:
        return None
    try:
        return Path(file).read_text().split("\n", 1)[0]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"$NOVACTL_DB_PASSWORD_FILE: {file}: {why}") from error
