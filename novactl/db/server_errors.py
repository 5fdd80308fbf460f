"""What errors of PostgreSQL and MariaDB say: whether they pass, and what to do about them."""

from sqlalchemy import exc

LOST = {"40001", "40P01", "55P03", "57P01", "57P02", "57P03", "53300", "25P03"}
"""SQLSTATEs of PostgreSQL after which the same work may be tried: two transactions met, or the server
ended, starts or is full (its appendix A)."""
LOST_NUMBERS = {
    1020,
    1040,
    1053,
    1152,
    1158,
    1159,
    1160,
    1161,
    1205,
    1213,
    1927,
    2002,
    2003,
    2006,
    2013,
    2055,
}
"""The same of MariaDB and its client library."""
ANSWERED = (
    "lost connection",
    "reset by peer",
    "broken pipe",
    "closed the connection",
    "gone away",
    "starting up",
    "shutting down",
    "recovery mode",
    "too many",
)
"""What is said of a server that is there, even if it goes away at once: not of one that cannot be reached."""
HOPELESS = ("password", "authentication", "does not exist", "no pg_hba", "access denied", "unknown database")


def may_pass(error: exc.DBAPIError, words: str) -> bool:
    """Whether the same work may be tried again; `words` are what the driver said."""
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return state in LOST or state.startswith("08")
    if any(hopeless in words.lower() for hopeless in HOPELESS):
        return False
    number = error.orig.args[0] if error.orig is not None and error.orig.args else None
    if isinstance(number, int) and number != 0:
        return number in LOST_NUMBERS
    return error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError)


def answered(words: str) -> bool:
    """Whether a server that we have no connection to was seen nonetheless."""
    words = words.lower()
    return "timed out" not in words and any(sign in words for sign in ANSWERED)


def hint(words: str) -> str:
    """What to do about it, empty when there is nothing to say."""
    hints = {
        "password": "$NOVACTL_DB_PASSWORD, or the server's own password file",
        "access denied": "$NOVACTL_DB_PASSWORD holds the password",
        'relation "': "novactl db init",
        "does not exist": "create the database on the server, then novactl db init",
        "unknown database": "create the database on the server, then novactl db init",
        "doesn't exist": "novactl db init",
        "no such file": "is the server running?",
        "refused": "is the server running?",
        "can't connect": "is the server running?",
    }
    return next((advice for text, advice in hints.items() if text in words.lower()), "")
