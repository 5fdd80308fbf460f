"""Which addresses a network gives, and which it never does."""

from dataclasses import replace

import pytest

from novactl.errors import Refused, UsageError
from novactl.objects.network import capacity, check_network, free_addresses, overlap
from tests.support import fleet

LAN = fleet.network(dns=("192.0.2.3",))


def first(network, count, taken=(), elsewhere=()):
    found = free_addresses(network, taken, elsewhere, None)
    return [next(found) for _ in range(count)]


def test_gateway_name_servers_hosts_and_taken_addresses_are_left_out():
    assert first(LAN, 2, taken=["192.0.2.4"], elsewhere=["192.0.2.2", "kvm2.example"]) == [
        "192.0.2.5",
        "192.0.2.6",
    ]


def test_a_pool_bounds_what_is_given_unasked():
    pool = check_network(replace(LAN, pool="192.0.2.100-192.0.2.101"))
    assert list(free_addresses(pool, (), (), None)) == ["192.0.2.100", "192.0.2.101"]
    assert list(free_addresses(pool, (), (), "192.0.2.9")) == ["192.0.2.9"]
    assert capacity(pool) == 2 and capacity(LAN) == 252


@pytest.mark.parametrize(
    "wanted", ["192.0.2.1", "192.0.2.3", "192.0.2.0", "192.0.2.255", "192.0.2.77", "198.51.100.9"]
)
def test_an_address_of_something_else_is_refused(wanted):
    with pytest.raises(Refused, match="is not one of network lan") as refused:
        list(free_addresses(LAN, (), ["192.0.2.77"], wanted))
    assert refused.value.code == 5


@pytest.mark.parametrize(
    "pool", ["192.0.2.9", "192.0.2.9-192.0.2.5", "198.51.100.1-198.51.100.9", "192.0.2.0-192.0.2.9", "a-b"]
)
def test_a_pool_outside_the_network_is_refused(pool):
    with pytest.raises(UsageError) as refused:
        check_network(replace(LAN, pool=pool))
    assert refused.value.code == 2


def test_networks_overlap_only_on_one_bridge():
    inner = replace(LAN, name="inner", cidr="192.0.2.128/25")
    assert overlap(LAN, inner) and overlap(inner, LAN)
    assert not overlap(LAN, replace(inner, bridge="br1"))
    assert not overlap(LAN, replace(inner, cidr="198.51.100.0/24"))
