"""project, quota and group as a user runs them: what is shown, what is refused, how it ends."""

import shlex
from pathlib import Path

import pytest

from novactl.db import groups, instances, projects
from novactl.db.sqlite import SqliteDatabase
from novactl.objects.project import NOVA_LIMITS
from tests.support import fleet
from tests.support.command import Command, Ended
from tests.support.documents import ROOT, shown_in

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ4Kx1nV0mUu9a3Y3qkG6mO9m0a5vV2w7yJ3eXoP0qRs me@here"


@pytest.fixture
def stocked(novactl: Command, db: SqliteDatabase) -> Command:
    fleet.furnish(db, hosts_=2)
    return novactl


@pytest.fixture
def key(tmp_path: Path) -> str:
    (tmp_path / "key.pub").write_text(KEY)
    return str(tmp_path / "key.pub")


def refused(novactl: Command, *words: str, code: int, says: str, hint: str = "") -> Ended:
    ended = novactl(*words, "-o", "json")
    assert (ended.code, ended.error["code"], ended.out) == (code, code, ""), ended
    assert says in ended.error["message"] and hint in ended.error["hint"], ended.err
    return ended


def quota(novactl: Command, *words: str) -> dict[str, tuple[int, int, int]]:
    """{resource: (limit, used, free)}"""
    rows = novactl.json("quota", "show", *words)
    return {row["resource"]: (row["limit"], row["used"], row["free"]) for row in rows}


def test_as_the_operations_guide_shows(stocked: Command) -> None:
    shown = [
        command
        for _, command in shown_in(ROOT / "docs" / "operations.md")
        if command.split()[1] in ("project", "quota", "group")
    ]
    assert len(shown) == 6
    for command in shown:
        stocked.ok(*shlex.split(command)[1:])
    assert quota(stocked, "shop")["memory_mib"] == (204800, 0, 204800)
    assert stocked.json("group", "show", "front")["policy"] == "anti-affinity"


# --- project ---


def test_a_project_has_nova_s_limits_but_for_those_that_are_given(stocked: Command) -> None:
    words = ("--description", "for trying", "--limit", "instances=20", "--limit", "cores=unlimited")
    made = stocked.json("project", "create", "dev", *words)
    assert {key: made[key] for key in ("name", "description")} == {"name": "dev", "description": "for trying"}
    assert made["limits"] == {**NOVA_LIMITS, "instances": 20, "cores": -1}
    assert (made["instances_used"], made["cores_used"], made["memory_mib_used"]) == (0, 0, 0)
    assert stocked.json("project", "show", "dev") == made
    assert stocked.json("project", "list") == [made]
    changed = stocked.json("project", "set", "dev", "--limit", "cores=5", "--description", "")
    assert changed == {**made, "description": "", "limits": {**made["limits"], "cores": 5}}
    assert stocked.ok("project", "delete", "dev").err == "project dev deleted\n"
    assert stocked.json("project", "list") == []


def test_what_it_uses_already_counts(stocked: Command, db: SqliteDatabase) -> None:
    fleet.add_instance(db, fleet.instance(1, project="dev", flavor=fleet.flavor(vcpus=3)))
    ended = stocked.ok("project", "create", "dev", "--limit", "cores=2", "-o", "json")
    assert (ended.json["instances_used"], ended.json["cores_used"]) == (1, 3)
    assert ended.err == (
        "project dev: cores: 3 used, above the limit of 2: nothing is taken away, no more is given\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (["create", "a/b"], 2, "project name 'a/b' is not acceptable", "1 to 63"),
        (["create", "dev"], 5, "project dev exists already", "novactl project show dev"),
        (["create", "x", "--limit", "instances"], 2, "limit 'instances' is not of the form RESOURCE=N", "as"),
        (["create", "x", "--limit", "instance=1"], 2, "'instance' does not exist", "did you mean instances?"),
        (["create", "x", "--limit", "zzz=1"], 2, "'zzz' does not exist", "there are instances, cores, mem"),
        (
            ["create", "x", "--limit", "cores=-2"],
            2,
            "cores: limit -2 is not a number from 0 to 2147483647",
            "-1",
        ),
        (["create", "x", "--limit", "cores=1.5"], 2, "cores: limit '1.5' is not a number", "unlimited"),
        (["create", "x", "--limit", "cores="], 2, "cores: limit '' is not a number", ""),
        (["create", "x", "--limit", "cores=²"], 2, "cores: limit '²' is not a number", ""),
        (["create", "x", "--limit", "cores=2147483648"], 2, "cores: limit 2147483648 is not", ""),
        (["create", "x", "--limit", "cores=1" + "0" * 5000], 2, "is not a number from", ""),
        (["create", "x", "--limit", "cores=1", "--limit", "cores=2"], 2, "limit of cores is given twice", ""),
        (["create", "x", "--description", "a\nb"], 2, "description 'a\\nb' has control characters", ""),
        (["create", "x", "--description", "y" * 256], 2, "description is longer than 255 characters", ""),
        (["set", "dev"], 2, "nothing to set is given", "--description or --limit"),
        (["set", "dew", "--limit", "cores=1"], 4, "project 'dew' does not exist", "did you mean dev?"),
        (["show", "zzz"], 4, "project 'zzz' does not exist", "novactl project list"),
        (["delete", "dew"], 4, "project 'dew' does not exist", "did you mean dev?"),
    ],
)
def test_bad_words_for_a_project(
    stocked: Command, db: SqliteDatabase, words: list[str], code: int, says: str, hint: str
) -> None:
    stocked.ok("project", "create", "dev")
    before = db.read(projects.everything)
    refused(stocked, "project", *words, code=code, says=says, hint=hint)
    assert db.read(projects.everything) == before


def test_a_project_that_has_something_stays(stocked: Command, db: SqliteDatabase, key: str) -> None:
    stocked.ok("project", "create", "dev")
    dev = ("--project", "dev")
    stocked.ok("keypair", "add", "me", "--public-key", key, *dev)
    stocked.ok("group", "create", "web", "--policy", "affinity", *dev)
    stocked.ok("network", "create", "net", "--cidr", "198.51.100.0/24", "--bridge", "br1", *dev)
    fleet.add_instance(db, fleet.instance(1, project="dev"))
    says = "project dev has 1 instances (web1); 1 keypairs (me); 1 networks (net); 1 groups (web)"
    refused(stocked, "project", "delete", "dev", code=5, says=says, hint="delete those first")
    with db.writing() as tx:
        instances.bury(tx, fleet.uuid(1), fleet.WHEN, None)
    stocked.ok("keypair", "delete", "me", *dev)
    stocked.ok("group", "delete", "web", *dev)
    refused(stocked, "project", "delete", "dev", code=5, says="project dev has 1 networks (net)")
    stocked.ok("network", "delete", "net", "-y")
    stocked.ok("project", "delete", "dev")


# --- quota ---


def test_a_project_that_was_never_made_has_no_limits(stocked: Command, db: SqliteDatabase) -> None:
    fleet.add_instance(db, fleet.instance(1, metadata={"a": "b"}))
    shown = quota(stocked)
    assert list(shown) == list(NOVA_LIMITS)
    assert shown["instances"] == shown["cores"] == shown["metadata_items"] == (-1, 1, -1)
    assert shown["memory_mib"] == (-1, 512, -1)
    assert quota(stocked, "never") == dict.fromkeys(NOVA_LIMITS, (-1, 0, -1))
    assert quota(stocked, "--project", "never") == quota(stocked, "never")
    lines = stocked.ok("quota", "show").out.splitlines()
    assert lines[0].split() == ["RESOURCE", "LIMIT", "USED", "FREE"]
    assert lines[1].split() == ["instances", "unlimited", "1", "unlimited"]
    assert stocked.json("project", "list") == []


def test_quota_set_makes_the_row_that_it_needs(stocked: Command, db: SqliteDatabase) -> None:
    fleet.add_instance(db, fleet.instance(1))
    rows = stocked.json("quota", "set", "default", "instances=5", "cores=4")
    assert rows[0] == {"project": "default", "resource": "instances", "limit": 5, "used": 1, "free": 4}
    shown = quota(stocked)
    assert (shown["instances"], shown["cores"], shown["memory_mib"]) == ((5, 1, 4), (4, 1, 3), (-1, 512, -1))
    stocked.ok("quota", "set", "cores=unlimited")
    assert (quota(stocked)["instances"], quota(stocked)["cores"]) == ((5, 1, 4), (-1, 1, -1))
    stocked.ok("quota", "set", "--", "instances=-1")
    assert quota(stocked)["instances"] == (-1, 1, -1)
    stocked.ok("quota", "set", "other", "instances=0", "--project", "dev")
    assert [one["name"] for one in stocked.json("project", "list")] == ["default", "other"]


def test_a_quota_below_the_use_is_said(stocked: Command, db: SqliteDatabase) -> None:
    for number in (1, 2):
        fleet.add_instance(db, fleet.instance(number))
    ended = stocked.ok("quota", "set", "default", "instances=1", "memory_mib=1024", "-o", "json")
    assert ended.json[0] == {"project": "default", "resource": "instances", "limit": 1, "used": 2, "free": 0}
    assert ended.err == (
        "project default: instances: 2 used, above the limit of 1: nothing is taken away, no more is given\n"
    )


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (["set"], 2, "missing argument", ""),
        (["set", "dev"], 2, "no limit is given", "RESOURCE=N"),
        (["set", "dev", "other", "cores=1"], 2, "'other' is not of the form RESOURCE=N", "as in instances=5"),
        (["set", "cores=1", "dev"], 2, "'dev' is not of the form RESOURCE=N", "as in instances=5"),
        (["set", "a b", "cores=1"], 2, "project name 'a b' is not acceptable", ""),
        (["set", "core=1"], 2, "resource 'core' does not exist", "did you mean cores?"),
        (["set", "cores=many"], 2, "cores: limit 'many' is not a number", "unlimited"),
        (["set", "cores=1", "cores=1"], 2, "limit of cores is given twice", ""),
        (["show", "../x"], 2, "project name '../x' is not acceptable", ""),
        (["show", "a", "b"], 2, "unexpected extra argument", ""),
    ],
)
def test_bad_words_for_a_quota(
    stocked: Command, db: SqliteDatabase, words: list[str], code: int, says: str, hint: str
) -> None:
    refused(stocked, "quota", *words, code=code, says=says, hint=hint)
    assert db.read(projects.everything) == []


def test_what_is_over_the_quota_is_refused(stocked: Command, db: SqliteDatabase, key: str) -> None:
    stocked.ok("quota", "set", "keypairs=1", "server_groups=1", "metadata_items=2")
    stocked.ok("keypair", "add", "one", "--public-key", key)
    ended = refused(
        stocked,
        *("keypair", "add", "two", "--public-key", key),
        code=5,
        says="project default is at its quota: keypairs: 1 wanted, 0 left of 1",
        hint="novactl quota show default; novactl quota set default changes it",
    )
    assert ended.error["type"] == "QuotaExceeded"
    over = {"project": "default", "resource": "keypairs", "wanted": 1, "left": 0, "limit": 1}
    assert ended.error["targets"] == [over]
    stocked.ok("keypair", "add", "two", "--public-key", key, "--project", "other")
    stocked.ok("group", "create", "one", "--policy", "affinity")
    words = ("group", "create", "two", "--policy", "affinity")
    refused(stocked, *words, code=5, says="server_groups: 1 wanted, 0 left of 1")
    fleet.add_instance(db, fleet.instance(1, metadata={"a": "1"}))
    stocked.ok("set", "web1", "--meta", "b=2")
    stocked.ok("set", "web1", "--meta", "b=3")  # does not grow
    refused(stocked, "set", "web1", "--meta", "c=3", code=5, says="metadata_items: 1 wanted, 0 left of 2")
    assert stocked.json("show", "web1")["metadata"] == {"a": "1", "b": "3"}
    stocked.ok("quota", "set", "metadata_items=0", "-q")
    assert stocked.json("unset", "web1", "--meta", "a")["metadata"] == {"b": "3"}


# --- group ---


def test_groups_and_their_members(stocked: Command, db: SqliteDatabase) -> None:
    made = stocked.json("group", "create", "web", "--policy", "anti-affinity", "--max-per-host", "2")
    assert {key: made[key] for key in made if key != "id"} == {
        "name": "web",
        "project": "default",
        "policy": "anti-affinity",
        "max_per_host": 2,
        "members": [],
    }
    stocked.ok("group", "create", "web", "--policy", "soft-affinity", "--project", "other")
    fleet.add_instance(db, fleet.instance(1, host="kvm1", group_id=made["id"]))
    fleet.add_instance(db, fleet.instance(2, group_id=made["id"]))
    members = [
        {"uuid": fleet.uuid(1), "name": "web1", "host": "kvm1"},
        {"uuid": fleet.uuid(2), "name": "web2", "host": None},
    ]
    assert stocked.json("group", "show", "web") == {**made, "members": members}
    assert stocked.json("group", "show", made["id"]) == stocked.json("group", "show", "web")
    assert stocked.json("group", "list") == [{**made, "members": members}]
    assert "web1 on kvm1, web2\n" in stocked.ok("group", "show", "web").out
    other = stocked.json("group", "list", "--project", "other")
    assert [(one["name"], one["policy"], one["members"]) for one in other] == [("web", "soft-affinity", [])]
    ended = stocked.ok("group", "delete", "web")
    assert ended.err == "group web deleted\n2 of its members go on without the rule\n"
    with db.reading() as tx:
        assert [instances.get(tx, fleet.uuid(n)).group_id for n in (1, 2)] == [None, None]
        assert [group.project for group in groups.everything(tx)] == ["other"]
    assert stocked.ok("group", "delete", "web", "--project", "other").err == "group web deleted\n"


@pytest.mark.parametrize(
    ("words", "code", "says", "hint"),
    [
        (
            ["create", "x", "--policy", "together"],
            2,
            "--policy 'together' is not one of affinity, anti-affinity, soft-affinity, soft-anti-affinity",
            "",
        ),
        (["create", "x"], 2, "missing option '--policy'", ""),
        (["create", "x/y", "--policy", "affinity"], 2, "group name 'x/y' is not acceptable", "1 to 63"),
        (["create", "web", "--policy", "affinity"], 5, "group web exists already", "novactl group show web"),
        (
            ["create", "x", "--policy", "anti-affinity", "--max-per-host", "0"],
            2,
            "max_per_host 0 is not within 1 to 1000",
            "",
        ),
        (
            ["create", "x", "--policy", "anti-affinity", "--max-per-host", "-1"],
            2,
            "max_per_host -1 is not within 1 to 1000",
            "",
        ),
        (
            ["create", "x", "--policy", "soft-affinity", "--max-per-host", "2"],
            2,
            "max_per_host belongs to anti-affinity, not to soft-affinity",
            "",
        ),
        (["show", "wab"], 4, "group 'wab' does not exist", "did you mean web?"),
        (["show", "web", "--project", "other"], 4, "group 'web' does not exist", "novactl group list shows"),
        (["delete", "zzz"], 4, "group 'zzz' does not exist", "novactl group list shows"),
    ],
)
def test_bad_words_for_a_group(
    stocked: Command, db: SqliteDatabase, words: list[str], code: int, says: str, hint: str
) -> None:
    stocked.ok("group", "create", "web", "--policy", "affinity")
    before = db.read(groups.everything)
    refused(stocked, "group", *words, code=code, says=says, hint=hint)
    assert db.read(groups.everything) == before
