"""Calling host.sh's functions: whatever is in an argument or in the data arrives as it is, never run."""

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from novactl.errors import Busy, Fenced, HostFault, HostRefused, HostUnreachable
from novactl.remote import shell as shell_module
from novactl.remote.shell import Channel, failure, library
from tests.support.local_shell import LocalChannel, LocalHost, LocalTransport

NASTY = [
    "plain",
    "two words",
    "",
    " lead and trail ",
    "$(touch CANARY)",
    "`touch CANARY`",
    "; touch CANARY",
    "| touch CANARY",
    "&& touch CANARY &",
    "\ntouch CANARY\n",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "\\'; touch CANARY; \\'",
    "$HOME ${IFS} $0 $@ $#",
    "* ? [a-z] {a,b} ~",
    "# not a comment",
    "<(touch CANARY)",
    "> CANARY",
    "-n",
    "--help",
    "!history",
    "\t\r\v\f\x01\x1b[31m\x7f",
    "é ü 漢字 🙂 \u202e",
    "a\\nb\\c",
    "%s %d %n",
    "<<EOF\ntouch CANARY\nEOF",
    "x" * 5000,
]


def echoed(host: LocalHost, word: str) -> bytes:
    """What a function gets as its argument."""
    return host.shell.call_bytes("printf", "%s", word)


@pytest.mark.parametrize("word", NASTY)
def test_an_argument_arrives_as_it_is(local: LocalHost, tmp_path: Path, word: str) -> None:
    canary = tmp_path / "canary"
    word = word.replace("CANARY", str(canary))
    assert echoed(local, word) == word.encode()
    assert not canary.exists()


def test_many_arguments_stay_apart(local: LocalHost) -> None:
    words = [word for word in NASTY if "\0" not in word]
    out = local.shell.call_bytes("printf", "%s\\0", *words)
    assert out.split(b"\0")[:-1] == [word.encode() for word in words]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> LocalHost:
    """One host for many examples."""
    host = LocalHost(tmp_path_factory.mktemp("host"))
    yield host
    host.close()


WORDS = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=60)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(WORDS, min_size=1, max_size=4))
def test_any_arguments(kept: LocalHost, words: list[str]) -> None:
    out = kept.shell.call_bytes("printf", "%s\\0", *words)
    assert out == b"".join(word.encode() + b"\0" for word in words)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_any_data(kept: LocalHost, data: bytes) -> None:
    assert kept.shell.call_bytes("cat", data=data) == data


def test_a_thousand_random_strings_over_one_shell(kept: LocalHost) -> None:
    """As arguments and as data, one call after another: none leaks into the next."""
    chance = random.Random(0)
    for _ in range(17):
        words = [
            chance.randbytes(chance.randint(0, 80)).replace(b"\0", b"\n").decode("latin-1") for _ in range(50)
        ]
        out = kept.shell.call_bytes("printf", "%s\\0", *words)
        assert out == b"".join(word.encode() + b"\0" for word in words)
    for _ in range(150):
        data = chance.randbytes(chance.choice([0, 1, 2, 57, 100]))
        line = chance.choice([b"", b"\n", b"'\n\"$(exit 9)\n"])
        assert kept.shell.call_bytes("cat", data=data + line) == data + line
    assert len(kept.transports) == 1
    assert len(kept.transports[0].channels) == 1


@pytest.mark.parametrize(
    "data", [b"", b"\n", b"a", b"a\n", b"EOF\n", b"\\\n", b"$(exit 3)\n", b"\r\n", b"\0\n"]
)
def test_data_of_either_form(local: LocalHost, data: bytes) -> None:
    assert local.shell.call_bytes("cat", data=data) == data


@pytest.mark.parametrize("size", [1 << 16, (1 << 16) + 1, 5 << 20])
def test_large_data_both_ways(local: LocalHost, size: int) -> None:
    for data in (os.urandom(size), b"x" * (size - 1) + b"\n", bytes(size)):
        assert local.shell.call_bytes("cat", data=data) == data


def test_data_that_a_function_does_not_read_is_not_taken_for_commands(
    local: LocalHost, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    command = f"touch {canary}\n".encode()
    assert local.shell.call("true", data=command * 1000) == ""
    assert local.shell.call("true", data=b"\xff" + command * 1000) == ""
    assert local.shell.call("echo", "on") == "on\n"
    assert not canary.exists()


def test_a_function_without_data_reads_nothing(local: LocalHost) -> None:
    assert local.shell.call("cat") == ""
    assert local.shell.call("echo", "on") == "on\n"


def test_output_that_looks_like_a_mark(local: LocalHost) -> None:
    local.shell.call("true")
    (channel,) = local.shell._idle
    mark = channel._mark
    for text in (f"{mark}", f"\n{mark[:-1]}", f"x{mark} 0\n", f"\n{mark[:16]}\n{mark[16:]}\n", "\n" * 100):
        assert local.shell.call_bytes("printf", "%s", text) == text.encode()
    assert local.shell.call("echo", "on") == "on\n"


@pytest.mark.parametrize("piece", [1, 7, 33, 1 << 16])
def test_output_that_comes_in_pieces(tmp_path: Path, piece: int) -> None:
    host = LocalHost(tmp_path, piece=piece)
    data = bytes(range(256)) * 12
    assert host.shell.call_bytes("cat", data=data) == data
    with pytest.raises(HostFault, match=r"^kvm1: so long$"):
        host.shell.call("nv_die", "1", "so long")
    host.close()


def test_much_on_stderr(local: LocalHost) -> None:
    with pytest.raises(HostFault) as caught:
        local.shell.call("nv_die", "1", "w" * (1 << 16))
    assert len(caught.value.message) > 1 << 16


# --- how a call ends ---


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("1", HostFault, 1),
        ("3", HostFault, 1),
        ("28", HostFault, 1),
        ("75", Fenced, 6),
        ("76", HostRefused, 5),
        ("77", Busy, 6),
        ("79", HostUnreachable, 7),
        ("127", HostFault, 1),
    ],
)
def test_exit_statuses_are_errors(local: LocalHost, status: str, kind: type[Exception], code: int) -> None:
    with pytest.raises(kind, match=r"^kvm1: the reason$") as caught:
        local.shell.call("nv_die", status, "the reason")
    assert type(caught.value) is kind
    assert caught.value.code == code
    assert local.shell.call("echo", "still here") == "still here\n"  # the shell goes on


def test_a_full_disk_has_a_hint() -> None:
    assert failure("kvm1", 28, "cannot write").hint == "free some space there, or choose another host"


def test_a_failure_without_words_names_its_status() -> None:
    assert failure("kvm1", 9, "\n").message == "kvm1: exit status 9"
    assert failure("kvm1", 1, "error: a\n\nerror: b\n").message == "kvm1: a; b"


def test_a_function_stops_at_its_first_failure(local: LocalHost, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(HostFault):
        local.shell.call("nv_put", str(missing), "file", "0600", data=b"x")
    assert not missing.exists()


def test_what_a_function_sets_is_gone_after_it(local: LocalHost) -> None:
    local.shell.call("cd", "/tmp")
    with pytest.raises(HostFault):
        local.shell.call("exit", "5")
    local.shell.call("unset", "-f", "nv_die")
    with pytest.raises(HostFault, match=r"^kvm1: here$"):
        local.shell.call("nv_die", "1", "here")


def test_a_shell_that_dies_in_mid_call(local: LocalHost) -> None:
    with pytest.raises(HostUnreachable, match=r"^kvm1: the shell on the host ended$") as caught:
        local.shell.call("eval", "kill -9 $$")  # also in a subshell it is the shell's
    assert caught.value.code == 7
    assert local.shell.call("echo", "another") == "another\n"


def test_a_link_that_is_cut_in_mid_call(local: LocalHost) -> None:
    local.shell.call("true")
    threading.Timer(0.2, local.cut).start()
    with pytest.raises(HostUnreachable) as caught:
        local.shell.call("sleep", "20")
    assert caught.value.retryable
    assert local.shell.call("echo", "again") == "again\n"
    assert len(local.transports) == 2


def test_a_link_that_is_cut_between_calls(local: LocalHost) -> None:
    local.shell.call("true")
    local.cut()
    assert local.shell.call("echo", "again") == "again\n"
    assert len(local.transports) == 2


def test_a_call_that_takes_too_long(local: LocalHost) -> None:
    began = time.monotonic()
    with pytest.raises(HostUnreachable, match=r"^kvm1: no answer in time$"):
        local.shell.call("sleep", "20", deadline=0.2)
    assert time.monotonic() - began < 5
    assert local.shell.call("echo", "on") == "on\n"


def test_twelve_threads(local: LocalHost) -> None:
    """More than there are channels: each gets its own answer, and no more shells are started."""

    def work(number: int) -> bool:
        good = True
        for turn in range(12):
            data = os.urandom(200) + f"{number}-{turn}".encode()
            good &= local.shell.call_bytes("cat", data=data) == data
            good &= local.shell.call("echo", f"{number} {turn}") == f"{number} {turn}\n"
        return good

    with ThreadPoolExecutor(max_workers=12) as pool:
        assert all(pool.map(work, range(12)))
    assert len(local.transports) == 1
    assert len(local.transports[0].channels) <= shell_module.CHANNELS


def test_one_call_that_fails_does_not_harm_the_others(local: LocalHost) -> None:
    def work(number: int) -> str:
        if number % 3:
            return local.shell.call("echo", str(number)).strip()
        with pytest.raises(HostFault):
            local.shell.call("nv_die", "1", "no")
        return str(number)

    with ThreadPoolExecutor(max_workers=12) as pool:
        assert list(pool.map(work, range(60))) == [str(n) for n in range(60)]


# --- streams ---


def test_a_stream_is_data_to_the_end(local: LocalHost, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    sent = f"touch {canary}\nexit 1\n".encode() + os.urandom(1 << 20)

    def feed(readline: object, write: object) -> None:
        write(sent)  # type: ignore[operator]

    local.shell.stream("dd", f"of={tmp_path / 'file'}", "bs=64k", "status=none", feed=feed)
    assert (tmp_path / "file").read_bytes() == sent
    assert not canary.exists()


@pytest.mark.parametrize("word", NASTY[:-1])
def test_a_stream_s_arguments_arrive_as_they_are(local: LocalHost, tmp_path: Path, word: str) -> None:
    canary = tmp_path / "canary"
    word = word.replace("CANARY", str(canary))
    lines: list[bytes] = []

    def feed(readline: object, write: object) -> None:
        while line := readline():  # type: ignore[operator]
            lines.append(line)

    local.shell.stream("printf", "%s\\n", word, feed=feed)
    assert b"".join(lines) == word.encode() + b"\n"
    assert not canary.exists()


def test_a_stream_s_command_is_short(local: LocalHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux refuses a word of 128 KiB; the functions go before the data."""
    commands: list[str] = []
    plain = LocalChannel.exec_command
    monkeypatch.setattr(
        LocalChannel, "exec_command", lambda self, said: commands.append(said) or plain(self, said)
    )
    taken: list[bytes] = []
    local.shell.fetch("printf", "%s", "x" * 1000, take=lambda read: taken.append(read(2000)))
    assert taken == [b"x" * 1000]
    assert [len(one) < 1200 for one in commands] == [True]


def test_a_stream_whose_function_ends_early_says_why(local: LocalHost) -> None:
    def feed(readline: object, write: object) -> None:
        for _ in range(200):
            write(b"x" * (1 << 16))  # type: ignore[operator]

    with pytest.raises(Busy, match=r"^kvm1: not now$"):
        local.shell.stream("nv_die", "77", "not now", feed=feed)


def test_a_stream_whose_link_is_cut(local: LocalHost) -> None:
    def feed(readline: object, write: object) -> None:
        local.cut()
        write(b"x")  # type: ignore[operator]

    with pytest.raises(HostUnreachable):
        local.shell.stream("cat", feed=feed)


# --- the fake is honest ---


def test_the_library_is_sent_with_its_state_moved(tmp_path: Path) -> None:
    transport = LocalTransport(tmp_path, dict(os.environ), (), 1 << 16)
    assert f"nv_state={tmp_path}\n" in transport.moved(library())
    assert "nv_state=/var" not in transport.moved(library())
    channel = Channel("kvm1", transport, sudo=False)
    assert channel.call(["eval", 'echo "$nv_state"'], None, 5) == (0, f"{tmp_path}\n".encode(), "")
    channel.close()


def test_a_warm_host_is_connected_to_once(local: LocalHost) -> None:
    """Whoever calls while it is being connected to waits for that channel, and takes no other."""
    local.shell.warm()
    local.shell.warm()
    assert local.shell.call("printf", "x") == "x"
    assert [len(each.channels) for each in local.transports] == [1]


def test_what_a_warm_up_met_is_told_to_the_next_call_alone(local: LocalHost) -> None:
    """A silent host is waited for once, and not given up for good."""
    tried, connected = threading.Event(), local.shell._connect

    def silent() -> LocalTransport:
        tried.set()
        raise HostUnreachable("kvm1: no answer")

    local.shell._connect = silent
    local.shell.warm()
    assert tried.wait(10)
    local.shell._connect = connected
    with pytest.raises(HostUnreachable, match=r"^kvm1: no answer$"):
        local.shell.call("true")
    assert local.shell.call("printf", "x") == "x"
    assert len(local.transports) == 1
