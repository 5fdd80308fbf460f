"""boot and delete against the same raw calls, on a real hypervisor."""

from datetime import datetime

import pytest

from tests.bench import limits
from tests.bench.conftest import Bench
from tests.bench.harness import Results, take_turns, timed
from tests.support.command import NOVACTL, Command

pytestmark = pytest.mark.lab

ONE = {
    "paramiko": ("--transport", "paramiko"),
    "ssh": ("--transport", "ssh"),
}
TEN = {
    "paramiko, shared, each": (),
    "paramiko, shared, once": ("--files", "once"),
    "paramiko, own, each": ("--libvirt", "own"),
    "ssh, shared, once": ("--transport", "ssh", "--files", "once"),
}
"""Ways to write the raw script (raw.py); the first is what the quick variant takes."""


def fastest(
    results: Results, bench: Bench, guests: int, ways: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """For boot and for delete, the options of the raw script that took least."""
    if not results.full:
        return dict.fromkeys(("boot", "delete"), next(iter(ways.values())))
    for _ in range(3):
        for way, options in ways.items():
            for verb in ("boot", "delete"):
                results.add(f"raw {verb} of {guests}: {way}", bench.raw(verb, guests, *options))
    best = {
        verb: min(ways, key=lambda way: results.median(f"raw {verb} of {guests}: {way}"))
        for verb in ("boot", "delete")
    }
    results.notes[f"fastest raw of {guests}"] = best
    return {verb: ways[way] for verb, way in best.items()}


def test_one(results: Results, bench: Bench, empty: Command) -> None:
    raw = fastest(results, bench, 1, ONE)
    startup = "start-up, with one"

    def novactl() -> float:
        seconds = bench.boot("one")
        results.add("delete", bench.delete("one"))
        return seconds

    def by_hand() -> float:
        seconds = bench.raw("boot", 1, *raw["boot"])
        results.add("raw delete", bench.raw("delete", 1, *raw["delete"]))
        return seconds

    bench.nothing_left()
    runs = {"boot": novactl, "raw boot": by_hand, startup: lambda: start_up(empty)}
    take_turns(results, results.repeat(15, 3), runs)
    bench.nothing_left()
    where_it_went(results, bench)
    results.check_ratio("boot", "boot", "raw boot", limits.BOOT_OF_RAW, startup)
    results.verdict("boot")


def start_up(empty: Command) -> float:
    return timed([NOVACTL, "list"], empty.environment)[0]


def where_it_went(results: Results, bench: Bench) -> None:
    """The journal knows when each step began and ended."""
    for row in bench.novactl.json("op", "list"):
        if row["target"] != "one":
            continue
        op = bench.novactl.json("op", "show", row["id"])
        steps = [step for step in op["steps"] if step["started_at"]]
        for step in steps:
            results.add(f"{op['kind']} step {step['name']}", seconds(step["started_at"], step["finished_at"]))
        total = seconds(steps[0]["started_at"], steps[-1]["finished_at"])
        results.add(f"{op['kind']} from claim to last step", total)


def seconds(start: str, end: str) -> float:
    return (datetime.fromisoformat(end) - datetime.fromisoformat(start)).total_seconds()


def test_ten(results: Results, bench: Bench, empty: Command) -> None:
    raw = fastest(results, bench, 10, TEN)
    names = [f"ten-{n}" for n in range(1, 11)]
    startup = "start-up, with ten"

    def novactl() -> float:
        taken = bench.boot("ten", "--count", "10")
        results.add("ten deletes", bench.delete(*names))
        return taken

    def by_hand() -> float:
        taken = bench.raw("boot", 10, *raw["boot"])
        results.add("ten raw deletes", bench.raw("delete", 10, *raw["delete"]))
        return taken

    bench.nothing_left()
    runs = {"ten boots": novactl, "ten raw boots": by_hand, startup: lambda: start_up(empty)}
    take_turns(results, results.repeat(9, 2), runs)
    bench.nothing_left()
    results.check_ratio("ten deletes", "ten deletes", "ten raw deletes", limits.TEN_DELETES_OF_RAW, startup)
    results.check_ratio("ten boots", "ten boots", "ten raw boots", limits.TEN_BOOTS_OF_RAW, startup)
    results.verdict("ten boots", "ten deletes")
