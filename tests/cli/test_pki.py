"""pki as a user runs it: what is shown, what is refused, how it ends. Hosts with certificates: tests/lab."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from novactl.db import certificates
from novactl.db.session import meta
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.moments import as_text
from tests.cli.test_output import certificate
from tests.support import fleet
from tests.support.command import Command

AUTHORITY = ["not_before", "not_after", "crl_number", "fingerprint", "certificate", "crl"]


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    fleet.furnish(db, hosts_=2, address="127.0.0.1", port=1)
    return novactl


def test_init_and_again(stocked: Command, db: SqliteDatabase) -> None:
    made = stocked.ok("pki", "init", "--days", "100", "-o", "json")
    assert list(made.json) == AUTHORITY
    assert made.err == "authority made; its key is sealed in the database\n"
    assert "PRIVATE" not in made.out
    again = stocked.ok("pki", "init", "-o", "json")
    assert (again.json, again.err) == (made.json, "authority unchanged\n")
    assert stocked.ok("pki", "init", "-o", "value", "-c", "certificate").out.startswith("-----BEGIN CERT")
    assert b"PRIVATE KEY" not in db.path.read_bytes()


def test_replacing_it_asks(stocked: Command, db: SqliteDatabase) -> None:
    first = stocked.json("pki", "init")
    ended = stocked("pki", "init", "--replace", "-o", "json")
    assert (ended.code, ended.error["code"]) == (8, 8)
    assert stocked.json("pki", "init") == first
    other = stocked.json("pki", "init", "--replace", "--yes")
    assert other["fingerprint"] != first["fingerprint"]
    assert len(db.read(lambda tx: tx.all("SELECT id FROM secrets"))) == 1


def test_a_dry_run_changes_nothing(stocked: Command, db: SqliteDatabase) -> None:
    plan = stocked.json("pki", "init", "--dry-run")
    assert list(plan) == ["kind", "target", "host", "alternates", "steps", "changes"]
    assert [step["name"] for step in plan["steps"]] == ["make"]
    assert db.read(lambda tx: meta(tx, certificates.AUTHORITY)) is None
    stocked.ok("pki", "init")
    assert stocked.json("pki", "init", "--dry-run")["steps"] == []
    db.write(lambda tx: certificates.add(tx, certificate(2, fleet.WHEN)))
    plan = stocked.json("pki", "revoke", "kvm2", "--dry-run")
    assert [(step["n"], step["name"], step["host"]) for step in plan["steps"]] == [
        *((1, "revoke", None), (2, "publish", "kvm2"))
    ]
    assert [row["state"] for row in stocked.json("pki", "list")] == ["valid"]


@pytest.mark.parametrize(("end", "state", "result"), [(10, "expiring", "warn"), (-1, "expired", "fail")])
def test_check_tells_what_ends(
    stocked: Command, db: SqliteDatabase, end: int, state: str, result: str
) -> None:
    def told() -> list[dict[str, str]]:
        rows = json.loads(stocked("check", "-o", "json").out)
        return [row for row in rows if row["check"] == "certificates"]

    db.write(lambda tx: certificates.add(tx, certificate(1, fleet.WHEN)))
    assert told() == []
    ends = as_text(datetime.now(UTC) + timedelta(days=end))
    for number, host in ((2, "kvm2"), (3, "gone")):
        one = replace(certificate(number, fleet.WHEN), host=host, not_after=ends)
        db.write(lambda tx, one=one: certificates.add(tx, one))
    assert [(row["target"], row["result"], row["hint"]) for row in told()] == [
        ("kvm2", result, "novactl pki issue kvm2")
    ]
    assert told()[0]["message"] == f"kvm2: its certificate is {state}, its end is {ends}"


def test_a_revocation_that_nobody_hears_is_recorded(stocked: Command, db: SqliteDatabase) -> None:
    stocked.ok("pki", "init")
    db.write(lambda tx: certificates.add(tx, certificate(2, fleet.WHEN)))
    ended = stocked("pki", "revoke", "kvm2", "-o", "json")
    assert (ended.code, ended.error["type"]) == (3, "PartlyDone")
    assert ended.error["message"] == "1 of 1 hosts were not told: kvm2"
    told = ended.json
    assert {key: told[key] for key in ("target", "result", "crl_number")} == {
        "target": "kvm2",
        "result": "done",
        "crl_number": 2,
    }
    assert told["serials"] == [certificate(2, None).serial]
    assert [(row["host"], row["result"], row["code"]) for row in told["hosts"]] == [("kvm2", "failed", 7)]
    assert [row["state"] for row in stocked.json("pki", "list")] == ["revoked"]
    again = stocked("pki", "revoke", "kvm2", "-o", "json")
    assert (again.code, again.json["result"], again.json["serials"]) == (3, "unchanged", [])


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (["issue", "kvm1"], 5, "the fleet has no certificate authority", "novactl pki init"),
        (["issue", "kvm1", "--dry-run"], 5, "the fleet has no certificate authority", "novactl pki init"),
        (["revoke", "kvm1"], 5, "the fleet has no certificate authority", "novactl pki init"),
        (["init", "--days", "0"], 2, "--days 0 is not within 1 to 36500", ""),
        (["init", "--days", "0", "--dry-run"], 2, "--days 0 is not within 1 to 36500", ""),
        (["issue", "kvm1", "--days", "36501"], 2, "--days 36501 is not within", ""),
        (["issue"], 2, "missing argument", ""),
    ],
)
def test_without_an_authority(stocked: Command, words: list[str], code: int, says: str, hint: str) -> None:
    ended = stocked("pki", *words, "-o", "json")
    assert (ended.code, ended.error["code"], ended.out) == (code, code, ""), ended
    assert says in ended.error["message"] and hint in ended.error["hint"]
    assert stocked.json("pki", "list") == []


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (["issue", "kvm9"], 4, "host 'kvm9'", "kvm1"),
        (["issue", "kvm1"], 7, "kvm1", ""),
        (["issue", "kvm1", "--dry-run"], 7, "kvm1", ""),
        (["revoke", "kvm1"], 4, "'kvm1' is no host with a certificate, and no serial", "did you mean kvm2?"),
        (["revoke", "zz"], 4, "'zz' is no host with a certificate", "novactl pki list"),
    ],
)
def test_what_ends_with_an_error(
    stocked: Command, db: SqliteDatabase, words: list[str], code: int, says: str, hint: str
) -> None:
    stocked.ok("pki", "init")
    db.write(lambda tx: certificates.add(tx, certificate(2, fleet.WHEN)))
    before = db.read(certificates.everything)
    ended = stocked("pki", *words, "-o", "json")
    assert (ended.code, ended.error["code"], ended.out) == (code, code, ""), ended
    assert says in ended.error["message"] and hint in ended.error["hint"], ended.err
    assert db.read(certificates.everything) == before


def test_another_operator_without_the_key_can_list_and_not_sign(stocked: Command, db: SqliteDatabase) -> None:
    stocked.ok("pki", "init")
    db.write(lambda tx: certificates.add(tx, certificate(2, fleet.WHEN)))
    (stocked.config / "secret.key").unlink()
    assert len(stocked.json("pki", "list")) == 1
    ended = stocked("pki", "revoke", "kvm2", "-o", "json")
    assert (ended.code, ended.error["message"]) == (5, "the secret was sealed with another key")
    assert [row["state"] for row in stocked.json("pki", "list")] == ["valid"]


def test_a_host_that_is_removed_keeps_its_certificates_and_that_is_said(
    stocked: Command, db: SqliteDatabase
) -> None:
    stocked.ok("pki", "init")
    db.write(lambda tx: certificates.add(tx, certificate(2, fleet.WHEN)))
    removed = stocked.ok("host", "remove", "kvm2", "--yes")
    assert "kvm2: its certificates are still good: novactl pki revoke kvm2\n" in removed.err
    assert stocked.json("pki", "revoke", "kvm2")["hosts"] == []
    assert [row["state"] for row in stocked.json("pki", "list")] == ["revoked"]
    assert "certificates" not in stocked.ok("host", "remove", "kvm1", "--yes").err
