"""How tightly placement packs when it is told to, beside the textbook's heuristics, in one replay."""

from collections.abc import Sequence

import pytest

from novactl.objects.candidate import Candidate
from novactl.scheduler.select import Selection
from novactl.scheduler.spec import Spec
from tests.bench import limits
from tests.bench.harness import Results
from tests.bench.packing import Choose, Packed, best_fit, dot_product, first_fit, hosts, replay, requests

PACK = {"memory": -1.0, "vcpus": -1.0, "disk": 0.0}
"""The weighers' multipliers of an operator who wants empty hosts."""


def placement(on: Sequence[Candidate], spec: Spec) -> Candidate | None:
    """What boot asks."""
    return Selection(on, spec).best()


CHOICES: dict[str, Choose] = {
    "first fit": first_fit,
    "best fit": best_fit,
    "dot product": dot_product,
    "placement": placement,
}


def replayed(results: Results, count: int, on: int, seed: int) -> dict[str, Packed]:
    """What became of the same requests with each of them."""
    asked = requests(count, seed)
    found = {name: replay(asked, hosts(on), choose, PACK) for name, choose in CHOICES.items()}
    print(f"\n{count} requests on {on} hosts, seed {seed}")
    for name, packed in found.items():
        print(f"  {name:12} {packed}")
    shown = {name: str(packed) for name, packed in found.items()}
    results.notes[f"packing {count} requests on {on} hosts, seed {seed}"] = shown
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_hosts_in_use(results: Results, seed: int) -> None:
    """With room for all, the fewer hosts are in use the better."""
    found = replayed(results, results.repeat(6000, 2500), results.repeat(150, 75), seed)
    assert {packed.refused for packed in found.values()} == {0}
    best = min(packed.used for name, packed in found.items() if name != "placement")
    assert found["placement"].used <= best * (1 + limits.PACKING)


@pytest.mark.parametrize("seed", [1, 2])
def test_cores_served(results: Results, seed: int) -> None:
    """With too few hosts, the more is served of what is asked for the better."""
    found = replayed(results, results.repeat(4000, 2000), results.repeat(44, 22), seed)
    best = max(packed.served for name, packed in found.items() if name != "placement")
    assert best < 1
    assert found["placement"].served >= best * (1 - limits.PACKING)
