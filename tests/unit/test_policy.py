"""Policies, cron's overrides and lengths of time: what is understood, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novactl.errors import UsageError
from novactl.objects.duration import LONGEST, as_duration, parse_duration
from novactl.objects.policy import CronTask, Policy, check_setting

NIGHT = {"name": "night", "do": "stop", "at": "20:00"}
KEEP = {"name": "keep", "do": "keep-running"}
BACKUP = {"name": "saved", "do": "backup", "at": "02:00", "type": "daily", "rotate": 7}
SETTLED = {"name": "settled", "do": "resize-confirm", "after": 86400}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("24h", 86400), ("7d", 604800), ("1h30m", 5400), ("0s", 0)],
)
def test_a_length_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(0, LONGEST))
def test_lengths_of_time_come_back(seconds: int) -> None:
    assert parse_duration(as_duration(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "90", "s", "1w", "-1s", "1 h", "1.5h", "10m ", "1h x", "m10"])
def test_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"^every .* is not a length of time$") as caught:
        parse_duration(text, "every")
    assert caught.value.hint == "for example 90s, 10m, 24h or 7d"


def test_too_long() -> None:
    with pytest.raises(UsageError, match=r"^duration '3661d' is longer than 3660d$"):
        parse_duration("3661d")


@pytest.mark.parametrize(
    "data",
    [
        NIGHT,
        KEEP,
        SETTLED,
        {
            **NIGHT,
            "selector": ["tier=dev", "blue"],
            "on": "kvm1",
            "days": ["mon", "fri"],
            "timezone": "Europe/Berlin",
            "project": "shop",
        },
    ],
)
def test_a_policy_comes_back(data: dict[str, Any]) -> None:
    policy = Policy.from_dict(data)
    assert Policy.from_dict(policy.as_dict()) == policy
    assert {key: policy.as_dict()[key] for key in data} == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ([], "policy [] is not a mapping"),
        ({"do": "stop"}, "policy: name is missing"),
        ({"name": "a"}, "policy: do is missing"),
        ({**NIGHT, "name": "-x"}, "policy name '-x' is not acceptable"),
        (
            {**NIGHT, "do": "delete"},
            "policy night: do 'delete' is not one of start, stop, reboot, keep-running",
        ),
        ({**NIGHT, "at": None}, "policy night: at is missing"),
        ({**NIGHT, "at": "24:00"}, "policy night: at '24:00' is not acceptable"),
        ({**NIGHT, "at": 1200}, "policy: at 1200 is of the wrong type"),
        ({**NIGHT, "days": ["monday"]}, "policy night: day 'monday' is not one of mon, "),
        ({**NIGHT, "days": "mon"}, "policy: days 'mon' is of the wrong type"),
        ({**NIGHT, "timezone": "Mars/Base"}, "policy night: timezone 'Mars/Base' is not known here"),
        ({**NIGHT, "timezone": "../etc"}, "policy night: timezone '../etc' is not known here"),
        ({**NIGHT, "timezone": "Europe"}, "policy night: timezone 'Europe' is not known here"),
        ({**NIGHT, "selector": ["=x"]}, "policy night: selector '' is not acceptable"),
        ({**NIGHT, "selector": ["a=b,c"]}, "policy night: selector 'a=b,c' has a comma"),
        ({**NIGHT, "on": "a b"}, "policy night: on 'a b' is not acceptable"),
        ({**NIGHT, "project": ""}, "policy night: project '' is not acceptable"),
        ({**NIGHT, "colour": "red"}, "policy: 'colour' is not known"),
        ({**KEEP, "at": "10:00"}, "policy keep: keep-running holds at all times"),
        ({**KEEP, "days": ["mon"]}, "policy keep: keep-running holds at all times"),
        ({**SETTLED, "at": "10:00"}, "policy settled: resize-confirm holds at all times"),
        ({**SETTLED, "after": None}, "policy settled: after is missing"),
        ({**SETTLED, "after": 0}, "policy settled: after is less than a second"),
        ({**SETTLED, "after": "1d"}, "policy: after '1d' is of the wrong type"),
        ({**KEEP, "after": 60}, "policy keep: after goes with resize-confirm and shelve-offload alone"),
        ({**BACKUP, "type": None}, "policy saved: type is missing"),
        ({**BACKUP, "type": "hourly"}, "policy saved: type 'hourly' is not one of daily, weekly"),
        ({**BACKUP, "rotate": None}, "policy saved: rotate is missing"),
        ({**BACKUP, "rotate": 0}, "policy saved: rotate 0: at least 1 backup is kept"),
        ({**BACKUP, "rotate": 10**20}, f"policy saved: rotate {10**20}: at most 1000000 backups are kept"),
        ({**BACKUP, "at": None}, "policy saved: at is missing"),
        ({**KEEP, "rotate": 3}, "policy keep: rotate goes with backup alone"),
    ],
)
def test_a_policy_that_is_refused(data: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        Policy.from_dict(data)
    assert caught.value.message.startswith(says)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("colour", {}, "setting 'colour' is not known"),
        ("weighers", [], "setting 'weighers' is not known, or has a value of another kind"),
        ("weighers", {"memory": "1"}, "weigher memory: multiplier '1' is not a number"),
        ("weighers", {"memory": True}, "weigher memory: multiplier True is not a number"),
        ("weighers", {"memory": float("nan")}, "weigher memory: multiplier nan is not a number"),
        ("weighers", {"memory": 1e7}, "weigher memory: multiplier 10000000.0 is not a number within"),
        ("policies", [NIGHT, NIGHT], "policies: a name is there twice"),
        ("policies", [7], "policy 7 is not a mapping"),
        ("cron", {"prune": {"every": 9}}, "cron task prune: every 9s is less than 10s"),
        ("cron", {"prune": {"every": "1h"}}, "cron task: every '1h' is of the wrong type"),
        ("cron", {"prune": {"jitter": -1}}, "cron task prune: jitter is less than 0"),
        ("cron", {"a b": {}}, "cron task 'a b' is not acceptable"),
        ("scheduler", [], "setting 'scheduler' is not known, or has a value of another kind"),
        ("scheduler", {"host_subset_size": 0}, "scheduler: host_subset_size 0 is not a whole number of 1 or"),
        ("scheduler", {"host_subset_size": 2.0}, "scheduler: host_subset_size 2.0 is not a whole number"),
        ("scheduler", {"max_io_ops_per_host": -1}, "scheduler: max_io_ops_per_host -1 is not a whole"),
        ("scheduler", {"max_instances_per_host": True}, "scheduler: max_instances_per_host True is not"),
        ("scheduler", {"max_instances_per_host": 10**9}, "scheduler: max_instances_per_host 1000000000 is"),
        ("scheduler", {"colour": 1}, "scheduler: 'colour' is not one of host_subset_size, max_io_ops_per"),
        ("trusted_networks", [], "setting 'trusted_networks' is not known, or has a value of another"),
        ("trusted_networks", {"a": "10.0.0.1/24"}, "trusted network a: '10.0.0.1/24' is not a network"),
        ("trusted_networks", {"a": 7}, "trusted network a: 7 is not a network"),
        ("trusted_networks", {"a b": "::/0"}, "trusted network 'a b' is not acceptable"),
        ("default_network", 7, "setting 'default_network' is not known, or has a value of another kind"),
        ("default_network", "a b", "default network 'a b' is not acceptable"),
    ],
)
def test_a_setting_that_is_refused(name: str, value: Any, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_setting(name, value)
    assert caught.value.message.startswith(says)


def test_settings_that_are_accepted() -> None:
    task = CronTask(name="prune", every=3600, jitter=60, enabled=False)
    assert CronTask.from_dict("prune", task.as_dict()) == task
    kept = CronTask(name="prune-caches", older=3600)
    assert CronTask.from_dict("prune-caches", kept.as_dict()) == kept
    for name, older in (("facts", 60), ("prune-caches", -1)):
        with pytest.raises(UsageError, match="older is an age, and goes with prune-caches and prune-records"):
            CronTask.from_dict(name, {"older": older})
    for name, value in (
        ("weighers", {"memory": -1, "vcpus": 0.5}),
        ("scheduler", {"host_subset_size": 1, "max_io_ops_per_host": 0, "max_instances_per_host": 50}),
        ("scheduler", {}),
        ("policies", [NIGHT, KEEP]),
        ("cron", {"prune": task.as_dict(), "other": {}}),
        ("trusted_networks", {"storage": "192.0.2.0/24", "six": "2001:db8::/32"}),
        ("default_network", "lan"),
        ("default_network", None),
    ):
        check_setting(name, value)
