"""Where image files are shared: what is such a place, and nothing that a shell or rbd would read as more."""

import pytest

from novactl.errors import UsageError
from novactl.objects.names import key_of, operation_of
from novactl.objects.place import Place, host_of, places_of


@pytest.mark.parametrize("text", ["host:kvm1:/srv/images", "rbd:kvm-1.example:images", "rbd:k:a.b-c_d"])
def test_a_place_is_what_it_says(text: str) -> None:
    place = Place.parse(text)
    assert str(place) == text
    assert host_of(text) == place.host and host_of("kvm1") == "kvm1"


@pytest.mark.parametrize(
    "text",
    [
        *("", "kvm1", "/srv", "nfs:kvm1:/srv", "host:kvm1", "host:kvm1:", "host::/srv", "host:kvm1:srv"),
        *("host:kvm1:/", "host:kvm1:/a/../b", "host:kvm1:/a//b", "host:kvm1:/.a", "host:kvm1:/a b"),
        *("host:kvm1:/$(id)", "host:kvm1:/a\nb", "host:-o:/srv", "host:kvm1:/a'b", "host:kvm1:/a/"),
        *("rbd:kvm1:--pool", "rbd:kvm1:a/b", "rbd:kvm1:a@b", "rbd:kvm1:a b", "rbd:kvm1:a:b", "rbd:kvm1:/a"),
        *("rbd:kvm1:", "rbd:kvm1:" + "a" * 64, "host:" + "k" * 64 + ":/srv"),
    ],
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Place.parse(text)
    assert caught.value.code == 2


def test_the_shared_locations_of_an_image() -> None:
    locations = ("file:/home/me/images/ab", "host:kvm1:/srv", "rbd:kvm2:images")
    assert [str(place) for place in places_of(locations)] == ["host:kvm1:/srv", "rbd:kvm2:images"]


def test_whose_key_it_is() -> None:
    assert operation_of(key_of("op-0ab", 12)) == "op-0ab" == operation_of("op-0ab")
