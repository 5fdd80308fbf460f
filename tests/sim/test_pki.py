"""pki on simulated hosts and each database: killed anywhere it can be done again, and nobody who is revoked
stays trusted by a host that could be told."""

from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from novactl.actions import pki
from novactl.db import certificates, hosts
from novactl.db import x509 as ours
from novactl.errors import Busy, HostUnreachable, NotFound, NovactlError, Refused, UsageError
from tests.support.databases import Place, content
from tests.support.sim import Fault, SimFleet, audited
from tests.support.toys import Died

DAY = 86400
KEYS = cycle([ours.new_key() for _ in range(5)])  # each takes a while


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "new_key", lambda: next(KEYS))


@pytest.fixture
def fleet(everywhere: Place, quick: Path) -> Iterator[SimFleet]:
    made = SimFleet(quick, place=everywhere)
    yield made
    made.close()


@pytest.fixture
def ready(fleet: SimFleet) -> SimFleet:
    """An authority, and three hosts with certificates."""
    done(fleet, pki.init)
    for host in fleet.hosts:
        done(fleet, pki.issue, host)
    return fleet


def done(fleet: SimFleet, act: Callable[..., Any], *words: Any, **how: Any) -> Any:
    """An act in a process of its own, a second after what was before."""
    fleet.clock.sleep(1)
    with fleet.process(**how) as process:
        return act(process.world, *words)


def states(fleet: SimFleet) -> list[tuple[str, str]]:
    found = fleet.db.read(lambda tx: pki.listed(tx, fleet.clock.now()))
    return [(one.host, str(state)) for one, state in found]


def reason(fleet: SimFleet, host: str) -> str | None:
    return fleet.db.read(lambda tx: pki.tls_ready(tx, host, fleet.clock.now()))


def void(fleet: SimFleet, host: str) -> set[int]:
    """The serials that the host's list names."""
    found = x509.load_pem_x509_crl(fleet.hosts[host].pki["ca-crl.pem"].encode())
    return {one.serial_number for one in found}


def serial_there(fleet: SimFleet, host: str) -> int:
    return x509.load_pem_x509_certificate(fleet.hosts[host].pki["server-cert.pem"].encode()).serial_number


def test_once_made_an_authority_stays(fleet: SimFleet) -> None:
    first, made = done(fleet, pki.init)
    assert made
    again, made = done(fleet, pki.init, 5)
    assert (again, made) == (first, False)


def test_another_authority_begins_anew(ready: SimFleet) -> None:
    first = ready.hosts["kvm1"].pki["ca-cert.pem"]
    with ready.process() as process:
        authority, made = pki.init(process.world, 100, replace=True)
    assert made and authority.pem != first
    assert states(ready) == []
    assert reason(ready, "kvm1") == "kvm1 has no certificate: novactl pki issue kvm1"
    assert len(ready.db.read(lambda tx: tx.all("SELECT id FROM secrets"))) == 1  # the old key is erased
    done(ready, pki.issue, "kvm1")
    assert ready.hosts["kvm1"].pki["ca-cert.pem"] == authority.pem
    done(ready, pki.revoke, "kvm1")
    assert (len(void(ready, "kvm1")), len(void(ready, "kvm2"))) == (1, 0)


def test_what_a_host_gets(ready: SimFleet) -> None:
    assert states(ready) == [("kvm1", "valid"), ("kvm2", "valid"), ("kvm3", "valid")]
    there = ready.hosts["kvm1"].pki
    assert sorted(there) == [
        *(
            "ca-cert.pem",
            "ca-crl.pem",
            "client-cert.pem",
            "client-key.pem",
            "server-cert.pem",
            "server-key.pem",
        )
    ]
    assert there["server-key.pem"] == there["client-key.pem"] != ready.hosts["kvm2"].pki["server-key.pem"]
    assert void(ready, "kvm1") == set()
    assert [reason(ready, host) for host in ready.hosts] == [None, None, None]


def test_no_private_key_is_in_the_database_in_clear(ready: SimFleet) -> None:
    stored = repr(content(ready.db))
    assert "BEGIN CERTIFICATE" in stored  # we look at the right thing
    assert "PRIVATE KEY" not in stored
    lines = [line for host in ready.hosts.values() for line in host.pki["server-key.pem"].splitlines()[1:3]]
    assert [line for line in lines if line in stored] == []
    sealed = ready.db.read(lambda tx: certificates.authority(tx))
    assert sealed is not None
    assert b"PRIVATE KEY" in ready.db.read(lambda tx: ready.secrets.open(tx, sealed.key))


def test_audit_finds_nothing_wrong_with_it(ready: SimFleet) -> None:
    assert audited(ready) == []


def test_renewed(ready: SimFleet) -> None:
    old = serial_there(ready, "kvm1")
    done(ready, pki.issue, "kvm1")
    assert states(ready)[:2] == [("kvm1", "replaced"), ("kvm1", "valid")]
    ready.clock.sleep(705 * DAY)
    assert {state for _, state in states(ready)} == {"replaced", "expiring"}
    assert reason(ready, "kvm1") is None
    ready.clock.sleep(30 * DAY)
    assert {state for _, state in states(ready)} == {"expired"}
    assert reason(ready, "kvm1") == "the certificate of kvm1 is expired: novactl pki issue kvm1"
    done(ready, pki.issue, "kvm1")
    assert states(ready)[0] == ("kvm1", "valid")  # what had expired of it is forgotten
    assert serial_there(ready, "kvm1") != old


def test_revoked_everywhere(ready: SimFleet) -> None:
    done(ready, pki.issue, "kvm3")
    serials = {int(one.serial, 16) for one in ready.db.read(lambda tx: certificates.of_host(tx, "kvm3"))}
    told = done(ready, pki.revoke, "kvm3")
    assert [(one.host, one.result) for one in told.hosts] == [(host, "done") for host in ready.hosts]
    assert len(serials) == 2  # the one that was replaced too
    assert [void(ready, host) for host in ready.hosts] == [serials] * 3
    assert reason(ready, "kvm3") == "the certificate of kvm3 is revoked: novactl pki issue kvm3"
    again = done(ready, pki.revoke, "kvm3")
    assert (again.serials, again.crl_number) == ([], told.crl_number)
    assert {one.result for one in again.hosts} == {"unchanged"}
    done(ready, pki.issue, "kvm3")
    assert (reason(ready, "kvm3"), void(ready, "kvm3")) == (None, serials)


def test_one_serial(ready: SimFleet) -> None:
    (one,) = ready.db.read(lambda tx: certificates.of_host(tx, "kvm2"))
    done(ready, pki.issue, "kvm2")
    assert done(ready, pki.revoke, one.serial).serials == [one.serial]
    assert [state for host, state in states(ready) if host == "kvm2"] == ["revoked", "valid"]


def test_a_host_that_is_away_is_told_the_next_time(ready: SimFleet) -> None:
    ready.hosts["kvm2"].up = False
    told = done(ready, pki.revoke, "kvm3")
    assert [(one.host, one.result) for one in told.hosts] == [
        *(("kvm1", "done"), ("kvm2", "failed"), ("kvm3", "done"))
    ]
    assert isinstance(told.hosts[1].error, HostUnreachable)
    assert (len(void(ready, "kvm1")), len(void(ready, "kvm2"))) == (1, 0)
    ready.hosts["kvm2"].up = True
    told = done(ready, pki.revoke, "kvm3")
    assert [one.result for one in told.hosts] == ["unchanged", "done", "unchanged"]
    assert len(void(ready, "kvm2")) == 1


def test_a_revocation_meanwhile_reaches_the_new_host(fleet: SimFleet) -> None:
    for act in ((pki.init,), (pki.issue, "kvm2"), (pki.issue, "kvm3")):
        done(fleet, *act)
    with fleet.process() as process:
        host = process.world.hypervisor("kvm1")
        placing = host.pki_place

        def place(crl_number: int, files: dict[str, str]) -> None:
            told = done(fleet, pki.revoke, "kvm3")  # by somebody who does not know of kvm1 yet
            assert [one.host for one in told.hosts] == ["kvm2", "kvm3"]
            placing(crl_number, files)

        host.pki_place = place  # type: ignore[method-assign,assignment]
        pki.issue(process.world, "kvm1")
    assert [len(void(fleet, name)) for name in fleet.hosts] == [1, 1, 1]


def test_an_older_copy_of_the_database_does_not_take_its_list_for_told(ready: SimFleet) -> None:
    ready.hosts["kvm1"].crl_number = 5  # it was told what this database has forgotten
    told = done(ready, pki.revoke, "kvm3")
    assert [one.result for one in told.hosts] == ["failed", "done", "done"]
    assert "has revocation list 5, this database made 2 at most" in str(told.hosts[0].error)
    assert done(ready, pki.revoke, "kvm3").hosts[0].result == "failed"


def test_an_authority_that_is_replaced_meanwhile(ready: SimFleet) -> None:
    with ready.process() as process:
        host = process.world.hypervisor("kvm1")
        placing = host.pki_place

        def place(crl_number: int, files: dict[str, str]) -> None:
            with ready.process() as other:
                pki.init(other.world, replace=True)
            placing(crl_number, files)

        host.pki_place = place  # type: ignore[method-assign,assignment]
        with pytest.raises(Busy, match="the authority was replaced meanwhile"):
            pki.issue(process.world, "kvm1")
    assert states(ready) == []
    done(ready, pki.issue, "kvm1")
    assert reason(ready, "kvm1") is None


KILLS = [(point, n) for n in (1, 2) for point in ("before-write", "after-write")]


@pytest.mark.parametrize("dies_at", KILLS)
def test_an_issue_that_is_killed_is_done_again(ready: SimFleet, dies_at: tuple[str, int]) -> None:
    before_ = serial_there(ready, "kvm1")
    with pytest.raises(Died):
        done(ready, pki.issue, "kvm1", dies_at=dies_at)
    assert (serial_there(ready, "kvm1") == before_) == (dies_at[1] == 1)
    assert reason(ready, "kvm1") is None  # what is there is good, old or new
    made = done(ready, pki.issue, "kvm1")
    assert serial_there(ready, "kvm1") == int(made.serial, 16)
    done(ready, pki.revoke, "kvm1")
    assert before_ in void(ready, "kvm2")
    assert {state for host, state in states(ready) if host == "kvm1"} == {"revoked"}


@pytest.mark.parametrize("dies_at", KILLS)
def test_a_revocation_that_is_killed_is_done_again(ready: SimFleet, dies_at: tuple[str, int]) -> None:
    with pytest.raises(Died):
        done(ready, pki.revoke, "kvm3", dies_at=dies_at)
    done(ready, pki.revoke, "kvm3")
    assert [len(void(ready, host)) for host in ready.hosts] == [1, 1, 1]
    assert reason(ready, "kvm3") is not None


@pytest.mark.parametrize("dies_at", KILLS[:2])
def test_an_init_that_is_killed_is_done_again(fleet: SimFleet, dies_at: tuple[str, int]) -> None:
    with pytest.raises(Died):
        done(fleet, pki.init, dies_at=dies_at)
    _, made = done(fleet, pki.init)
    assert made == (dies_at[0] == "before-write")
    done(fleet, pki.issue, "kvm1")
    assert reason(fleet, "kvm1") is None


@pytest.mark.parametrize("how", ["lost", "fails", "full"])
def test_a_host_that_fails_to_take_it(ready: SimFleet, how: str) -> None:
    ready.faults.append(Fault("pki_place", how, "kvm1"))
    with pytest.raises(NovactlError, match="kvm1"):
        done(ready, pki.issue, "kvm1")
    assert ("kvm1", "unplaced") in states(ready)
    assert reason(ready, "kvm1") is None
    done(ready, pki.issue, "kvm1")
    assert reason(ready, "kvm1") is None


def test_what_is_refused(fleet: SimFleet) -> None:
    def refused(error: type[Exception], says: str, act: Callable[..., Any], *words: Any) -> None:
        stored = content(fleet.db)
        with pytest.raises(error, match=says):
            done(fleet, act, *words)
        assert content(fleet.db) == stored
        assert {tuple(host.pki) for host in fleet.hosts.values()} == {()}

    for act in (pki.issue, pki.planned_issue):
        refused(Refused, "has no certificate authority", act, "kvm1", 730)
    for act in (pki.revoke, pki.planned_revoke):
        refused(Refused, "has no certificate authority", act, "kvm1")
    refused(UsageError, "--days 0", pki.init, 0)
    done(fleet, pki.init, 100)
    refused(NotFound, "'kvm1' is no host with a certificate", pki.revoke, "kvm1")
    refused(UsageError, "--days 36501", pki.issue, "kvm1", 36501)
    refused(NotFound, "'kvm9'", pki.issue, "kvm9")
    fleet.hosts["kvm1"].up = False
    refused(HostUnreachable, "kvm1", pki.issue, "kvm1")
    fleet.hosts["kvm1"].up = True
    fleet.clock.sleep(101 * DAY)
    refused(Refused, "the authority has expired", pki.issue, "kvm1")


def test_who_is_not_ready(ready: SimFleet) -> None:
    assert reason(ready, "kvm1") is None
    ready.db.write(lambda tx: hosts.update(tx, "kvm1", address="198.51.100.1"))
    assert reason(ready, "kvm1") == (
        "the certificate of kvm1 does not name its address 198.51.100.1: novactl pki issue kvm1"
    )
    done(ready, pki.issue, "kvm1")
    assert reason(ready, "kvm1") is None
    ready.db.write(lambda tx: tx.run("DELETE FROM certificates WHERE host = 'kvm2'"))
    assert reason(ready, "kvm2") == "kvm2 has no certificate: novactl pki issue kvm2"


def test_a_certificate_ends_with_the_authority(fleet: SimFleet) -> None:
    authority, _ = done(fleet, pki.init, 100)
    fleet.clock.sleep(50 * DAY)
    assert done(fleet, pki.issue, "kvm1").not_after == authority.not_after
