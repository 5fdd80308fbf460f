"""Rebalancing: every state on the way is allowed, nothing is broken for it, the fleet is better for it."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novactl.scheduler.fleet import Fleet, Guest, Node, Party, Rules
from novactl.scheduler.rebalance import Plan, plan, score
from novactl.scheduler.repair import Kind, violations

GIB = 1024


def node(name: str, used: tuple[float, float, float] = (0, 0, 0), **values: object) -> Node:
    return replace(Node(name=name, limit=(64 * GIB, 64, 1000), used=used), **values)  # type: ignore[arg-type]


def guest(
    number: int, host: str, memory: int = 4 * GIB, vcpus: int = 2, disk: int = 20, **values: object
) -> Guest:
    made = Guest(uuid=f"uuid-{number:03}", name=f"web{number}", host=host, size=(memory, vcpus, disk))
    return replace(made, **values)  # type: ignore[arg-type]


def filled(nodes: list[Node], guests: list[Guest]) -> list[Node]:
    """The nodes with what their guests have claimed."""
    there = {one.name: [g.size for g in guests if g.host == one.name] for one in nodes}
    return [
        replace(
            one,
            used=tuple(have + sum(size[r] for size in there[one.name]) for r, have in enumerate(one.used)),
        )
        for one in nodes
    ]


# --- any fleet ---

Case = tuple[list[Node], list[Guest], Rules]


@st.composite
def fleets(draw: st.DrawFn) -> Case:
    """Hosts of all sizes, some closed, some over their capacity; guests of which some are locked, or may go
    back to another host; groups, pairs and kinds that some hosts refuse, kept or not."""
    count = draw(st.integers(1, 6))
    names = [f"kvm{n}" for n in range(count)]
    nodes = [
        Node(
            name=name,
            limit=(draw(st.sampled_from((0, 8, 32, 64))) * GIB, draw(st.sampled_from((8, 32))), 500),
            used=(draw(st.sampled_from((0, 0, 2))) * GIB, 0, 0),
            up=draw(st.sampled_from((True, True, True, False))),
            enabled=draw(st.sampled_from((True, True, True, False))),
        )
        for name in names
    ]
    guests = [
        Guest(
            uuid=f"uuid-{n:03}",
            name=f"web{n}",
            host=draw(st.sampled_from(names)),
            size=(
                draw(st.sampled_from((1, 2, 4, 8))) * GIB,
                draw(st.integers(1, 4)),
                draw(st.integers(0, 40)),
            ),
            live=draw(st.booleans()),
            kind=draw(st.sampled_from(("", "", "picky"))),
            group=draw(st.sampled_from((None, None, "apart", "near", "soft-apart", "soft-near"))),
            blocker=draw(st.sampled_from((None, None, None, "is locked"))),
        )
        for n in range(draw(st.integers(0, 14)))
    ]
    uuids = [g.uuid for g in guests] or ["none"]
    pairs = st.lists(st.tuples(st.sampled_from(uuids), st.sampled_from(uuids)), max_size=2)
    rules = Rules(
        refused={
            "picky": dict.fromkeys(draw(st.lists(st.sampled_from(names), max_size=count)), "other zone")
        },
        groups={
            "apart": Party(name="apart", together=False, max_per_host=draw(st.integers(1, 2))),
            "near": Party(name="near", together=True),
            "soft-apart": Party(name="soft-apart", together=False, hard=False),
            "soft-near": Party(name="soft-near", together=True, hard=False),
        },
        apart=draw(pairs),
        together=draw(pairs),
        held=[(g.uuid, draw(st.sampled_from(names))) for g in guests if g.blocker and draw(st.booleans())],
    )
    return filled(nodes, guests), guests, rules


def walked(case: Case, made: Plan) -> Iterator[tuple[Fleet, int, int]]:
    """(the fleet before the move, guest, node) of each move that is made, in their order."""
    nodes, guests, rules = case
    fleet = Fleet(nodes, guests, rules)
    index = {g.uuid: n for n, g in enumerate(fleet.guests)}
    for move in made.moves:
        if move.blocker is None:
            assert move.target is not None
            g, b = index[move.guest.uuid], fleet.number[move.target]
            yield fleet, g, b
            fleet.move(g, b)


def broken(fleet: Fleet) -> float:
    return sum(one.weight for one in violations(fleet))


def welcome(fleet: Fleet, g: int, b: int) -> bool:
    """As filters.group, filters.together_with and filters.apart_from see a member that is moved."""
    one, there = fleet.guests[g], {fleet.guests[h].uuid for h in fleet.on[b]}
    party = fleet.rules.groups.get(one.group or "")
    others = {h.uuid for h in fleet.guests if h.group == one.group} - {one.uuid}
    if party is not None and party.together and party.hard and others and not others & there:
        return False
    held = there | {uuid for uuid, host in fleet.rules.held if host == fleet.nodes[b].name}
    if party is not None and party.hard and not party.together and len(others & held) >= party.max_per_host:
        return False
    with_it, apart = (
        {pair[1 - n] for pair in pairs for n in (0, 1) if pair[n] == one.uuid} - {one.uuid}
        for pairs in (fleet.rules.together, fleet.rules.apart)
    )
    return (not with_it or bool(with_it & there)) and not apart & held


@given(fleets(), st.booleans(), st.sampled_from((None, 1, 3)))
@settings(max_examples=150, deadline=None)
def test_any_plan(case: Case, only_rules: bool, most: int | None) -> None:
    made = plan(*case, only_rules=only_rules, max_moves=most)
    moved: list[str] = []
    start = Fleet(*case)
    rules_broken = broken(start)
    for fleet, g, b in walked(case, made):
        one = fleet.guests[g]
        assert fleet.fits(g, b), "every state on the way has the room"
        assert one.blocker is None and fleet.nodes[fleet.at[g]].up, "what is blocked stays"
        assert fleet.why_not(g, b) is None, "never to a host that its own wishes refuse"
        assert fleet.at[g] != b
        assert welcome(fleet, g, b), "placement takes it there"
        moved.append(one.uuid)
    assert len(moved) == len(set(moved)), "each moves at most once"
    assert most is None or len(moved) <= most
    end = Fleet(*case)
    for _, g, b in walked(case, made):
        end.move(g, b)
    assert broken(end) <= rules_broken + 1e-9
    assert score(end).score == pytest.approx(made.after.score, abs=1e-5)
    if not only_rules:
        assert made.after.score <= made.before.score + 1e-6 or broken(end) < rules_broken
    if only_rules and not rules_broken:
        assert made.moves == ()
    assert plan(*case, only_rules=only_rules, max_moves=most) == made


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_nothing_is_newly_broken_on_the_way(case: Case) -> None:
    """But for a bundle, which is as far apart while the rest of it goes where some is."""
    made = plan(*case)
    end, before = None, None
    for fleet, g, b in walked(case, made):
        if before is not None:
            now = {one.text for one in violations(fleet) if one.kind not in (Kind.TOGETHER, Kind.CAPACITY)}
            apart = {one.kind for one in violations(fleet)}
            assert end is not None
            assert broken(fleet) <= before + 1e-9 or Kind.TOGETHER in apart, now
        end, before = (g, b), broken(fleet)


@given(fleets())
@settings(max_examples=60, deadline=None)
def test_a_fleet_that_was_mended_stays(case: Case) -> None:
    """The plan of what a plan leads to moves nothing for the rules that it could mend."""
    nodes, guests, rules = case
    made = plan(nodes, guests, rules, only_rules=True)
    to = {move.guest.uuid: move.target for move in made.moves if move.target}
    for one in guests:
        if one.uuid in to:
            nodes = [
                replace(
                    n,
                    used=tuple(
                        have + size * ((n.name == to[one.uuid]) - (n.name == one.host))
                        for have, size in zip(n.used, one.size, strict=True)
                    ),
                )
                for n in nodes
            ]
    after = [replace(one, host=to.get(one.uuid) or one.host) for one in guests]
    assert plan(nodes, after, rules, only_rules=True).before.violations == made.after.violations


# --- single stories ---


def moves(made: Plan) -> list[tuple[str, str, str | None, str | None]]:
    return [(m.guest.name, m.guest.host, m.target, m.blocker) for m in made.moves]


def test_an_even_fleet_moves_nothing() -> None:
    guests = [guest(1, "kvm1"), guest(2, "kvm2")]
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, Rules())
    assert (made.moves, made.before) == ((), made.after)


def test_the_largest_that_helps_moves_first() -> None:
    guests = [guest(1, "kvm1", 16 * GIB), guest(2, "kvm1", 8 * GIB), guest(3, "kvm1", 24 * GIB)]
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, Rules())
    assert moves(made) == [("web3", "kvm1", "kvm2", None)]
    assert made.moves[0].reason == "memory: kvm1 has 75% claimed, kvm2 0%"
    assert made.moves[0].guest.cost_gib == 44
    assert made.after.spread[0] == 0


def test_min_gain_and_max_moves() -> None:
    guests = [guest(n, "kvm1") for n in range(8)]
    nodes = filled([node("kvm1"), node("kvm2")], guests)
    assert len(plan(nodes, guests, Rules()).moves) == 4
    assert len(plan(nodes, guests, Rules(), max_moves=2).moves) == 2
    assert plan(nodes, guests, Rules(), min_gain=0.9).moves == ()


def test_a_stopped_guest_carries_no_memory() -> None:
    assert guest(1, "kvm1", 2048, disk=10).cost_gib == 12
    assert guest(1, "kvm1", 2048, disk=10, live=False).cost_gib == 10


def test_what_is_blocked_is_named_when_a_rule_needs_it() -> None:
    guests = [guest(1, "kvm1", kind="a", blocker="is locked"), guest(2, "kvm1", blocker="is locked")]
    rules = Rules(refused={"a": {"kvm1": "is in zone x, not y"}})
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, rules)
    assert moves(made) == [("web1", "kvm1", None, "is locked")]
    assert made.moves[0].reason == "web1 is on kvm1: is in zone x, not y"
    assert made.after.violations == ("web1 is on kvm1: is in zone x, not y",)


def test_anti_affinity() -> None:
    guests = [guest(n, "kvm1", group="g") for n in range(3)]
    rules = Rules(groups={"g": Party(name="web", together=False)})
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    made = plan(nodes, guests, rules, only_rules=True)
    assert sorted(target for _, _, target, _ in moves(made) if target) == ["kvm2", "kvm3"]
    assert made.before.violations == ("kvm1 has 3 of group web, 1 may be",)
    assert made.after.violations == ()
    made = plan(nodes[:2], guests, rules, only_rules=True)
    assert [blocker for *_, blocker in moves(made)] == [None, "no other host may take it"]


def test_affinity_joins_the_most() -> None:
    guests = [guest(1, "kvm1", group="g"), guest(2, "kvm2", group="g"), guest(3, "kvm2", group="g")]
    rules = Rules(groups={"g": Party(name="db", together=True)})
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, rules)
    assert moves(made) == [("web1", "kvm1", "kvm2", None)]


def test_pairs() -> None:
    guests = [guest(1, "kvm1"), guest(2, "kvm1"), guest(3, "kvm1"), guest(4, "kvm2")]
    rules = Rules(apart=[("uuid-001", "uuid-002")], together=[("uuid-003", "uuid-004"), ("uuid-003", "gone")])
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, rules, only_rules=True)
    assert made.after.violations == ()
    assert len(made.moves) == 2


def test_a_full_host_is_relieved_of_the_one_that_suffices() -> None:
    guests = [guest(1, "kvm1", 8 * GIB), guest(2, "kvm1", 30 * GIB), guest(3, "kvm1", 32 * GIB)]
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, Rules(), only_rules=True)
    assert moves(made) == [("web1", "kvm1", "kvm2", None)]
    assert made.moves[0].reason == "kvm1: 71680 MiB of memory are claimed, 65536 may be"


def test_a_third_host_breaks_a_circle() -> None:
    """Each must be where the other is, and neither host has room for both."""
    guests = [guest(1, "kvm1", 40 * GIB, kind="a"), guest(2, "kvm2", 40 * GIB, kind="b")]
    rules = Rules(refused={"a": {"kvm1": "no ssd", "kvm3": "no ssd"}, "b": {"kvm2": "other zone"}})
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    made = plan(nodes, guests, rules, only_rules=True)
    assert moves(made) == [("web2", "kvm2", "kvm3", None), ("web1", "kvm1", "kvm2", None)]
    assert made.moves[0].reason == "makes room on kvm2 for web1"
    assert made.after.violations == ()


@pytest.mark.parametrize(
    ("refused", "most", "why"),
    [
        (("kvm1",), None, "no host that may take it has room"),
        (("kvm1", "kvm2"), None, "no other host may take it"),
        (("kvm1", "kvm2"), 1, "no other host may take it"),
    ],
)
def test_why_a_rule_cannot_be_mended(refused: tuple[str, ...], most: int | None, why: str) -> None:
    guests = [guest(1, "kvm1", 60 * GIB, kind="a"), guest(2, "kvm2", blocker="is locked")]
    rules = Rules(refused={"a": dict.fromkeys(refused, "no ssd")})
    nodes = filled([node("kvm1"), node("kvm2", (GIB, 0, 0))], guests)
    assert moves(plan(nodes, guests, rules, max_moves=most)) == [("web1", "kvm1", None, why)]


def test_a_full_host_is_not_relieved_at_any_price() -> None:
    """One vcpu less of ten too many, and nearly all memory that is used were on one host."""
    guests = [guest(1, "kvm1", 40 * GIB, 1), guest(2, "kvm2", 20 * GIB, 1, blocker="is locked")]
    nodes = filled([node("kvm1", (0, 73, 0)), node("kvm2")], guests)
    why = "its move would make the fleet more uneven than its host would be the better for it"
    assert moves(plan(nodes, guests, Rules(), only_rules=True)) == [("web1", "kvm1", None, why)]


def test_what_has_room_only_after_the_plan_is_said_so() -> None:
    guests = [guest(1, "kvm1", kind="a"), guest(2, "kvm2", 62 * GIB, kind="b"), guest(3, "kvm3", GIB)]
    rules = Rules(
        refused={"a": dict.fromkeys(("kvm1", "kvm3"), "no ssd"), "b": {"kvm2": "other zone"}},
        together=[("uuid-002", "uuid-003")],
    )
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    made = plan(nodes, guests, rules, only_rules=True)
    why = "a host that may take it has room only after these moves: rebalance again"
    assert moves(made) == [("web2", "kvm2", "kvm3", None), ("web1", "kvm1", None, why)]
    after = [replace(one, host="kvm3" if one.name == "web2" else one.host) for one in guests]
    again = plan(filled([node("kvm1"), node("kvm2"), node("kvm3")], after), after, rules, only_rules=True)
    assert moves(again) == [("web1", "kvm1", "kvm2", None)]


def test_what_more_moves_would_mend_is_not_called_impossible() -> None:
    """One that needs room made, and a bundle of two."""
    guests = [guest(1, "kvm1", 30 * GIB, kind="a"), *(guest(n, "kvm2", 30 * GIB) for n in (2, 3))]
    rules = Rules(refused={"a": {"kvm1": "no ssd", "kvm3": "no ssd"}})
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    assert moves(plan(nodes, guests, rules, only_rules=True, max_moves=1)) == []
    assert len(moves(plan(nodes, guests, rules, only_rules=True, max_moves=2))) == 2
    guests = [*(guest(n, "kvm1", kind="a") for n in (1, 2)), guest(3, "kvm2", blocker="is locked")]
    pairs = [("uuid-001", "uuid-002"), ("uuid-002", "uuid-003")]
    rules = Rules(refused={"a": {"kvm1": "other zone"}}, together=pairs)
    nodes = filled([node("kvm1"), node("kvm2")], guests)
    found = moves(plan(nodes, guests, rules, only_rules=True, max_moves=1))
    assert found == [("web3", "kvm2", None, "is locked")]
    assert len(moves(plan(nodes, guests, rules, only_rules=True, max_moves=2))) == 2


@pytest.mark.parametrize("closed", [True, False])
def test_no_room_is_looked_for_where_there_can_be_none(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hosts have more than they may, or one has some room and the others far too much."""
    asked: list[int] = []
    suits = Fleet.suits
    monkeypatch.setattr(Fleet, "suits", lambda *args: asked.append(1) or suits(*args))
    guests = [guest(n, f"kvm{n % 20}", 8 * GIB) for n in range(400)]
    nodes = [*filled([node(f"kvm{n}") for n in range(20)], guests), node("kvm20", (63 * GIB, 0, 0))]
    found = moves(plan(nodes[:20] if closed else nodes, guests, Rules(), only_rules=True))
    assert {why for *_, why in found} == {"no host that may take it has room"} and len(found) == 20
    assert len(asked) <= 400


@pytest.mark.parametrize("most", [None, 1, 2, 3])
def test_no_room_is_made_on_a_host_that_has_more_guests_than_it_may(most: int | None) -> None:
    """One for another leaves as many there."""
    guests = [guest(1, "kvm1", 30 * GIB, kind="a"), *(guest(n, "kvm2", 30 * GIB) for n in (2, 3))]
    rules = Rules(refused={"a": {"kvm1": "no ssd", "kvm3": "no ssd"}})
    nodes = filled([node("kvm1"), node("kvm2", most=most), node("kvm3")], guests)
    made = plan(nodes, guests, rules, only_rules=True)
    if most == 1:
        assert moves(made) == [("web1", "kvm1", None, "no host that may take it has room")]
    else:
        assert moves(made) == [("web2", "kvm2", "kvm3", None), ("web1", "kvm1", "kvm2", None)]


def test_a_disabled_host_is_neither_drained_nor_filled() -> None:
    guests = [guest(n, "kvm1") for n in range(8)]
    nodes = filled([node("kvm1", enabled=False), node("kvm2"), node("kvm3", enabled=False)], guests)
    assert plan(nodes, guests, Rules()).moves == ()


def test_a_host_that_is_down_keeps_its_guests() -> None:
    guests = [guest(1, "kvm1", kind="a")]
    rules = Rules(refused={"a": {"kvm1": "other zone"}})
    made = plan(filled([node("kvm1", up=False), node("kvm2")], guests), guests, rules)
    assert moves(made) == [("web1", "kvm1", None, "its host kvm1 is not up")]


def test_nobody_of_a_bundle_can_go_first() -> None:
    """Placement takes a member only where another one is (filters.group, filters.together_with)."""
    refused, near = {"a": {"kvm1": "other zone"}}, {"g": Party(name="db", together=True)}
    guests = [guest(n, "kvm1", kind="a", group="g") for n in range(5)]
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    made = plan(nodes, guests, Rules(refused=refused, groups=near))
    says = "must be with web1, web2, web3 and 1 more: none of them may go first where no other one is"
    assert moves(made)[0] == ("web0", "kvm1", None, says)
    assert [target for _, _, target, _ in moves(made)] == [None] * 5
    pair = [guest(n, "kvm1", kind="a") for n in range(2)]
    made = plan(filled(nodes, []), pair, Rules(refused=refused, together=[("uuid-000", "uuid-001")]))
    assert moves(made)[1][2:] == (None, "must be with web0: none of them may go first where no other one is")


def test_a_member_alone_goes_where_it_may() -> None:
    guests = [guest(1, "kvm1", kind="a", group="g")]
    rules = Rules(refused={"a": {"kvm1": "other zone"}}, groups={"g": Party(name="db", together=True)})
    made = plan(filled([node("kvm1"), node("kvm2")], guests), guests, rules)
    assert moves(made) == [("web1", "kvm1", "kvm2", None)]


def test_the_rest_of_a_bundle_goes_where_some_of_it_is() -> None:
    """Each after one whom it names: web1 names web2, and web2 the one that is there."""
    guests = [guest(1, "kvm1", kind="a"), guest(2, "kvm1", kind="a"), guest(3, "kvm2")]
    pairs = [("uuid-001", "uuid-002"), ("uuid-002", "uuid-003")]
    rules = Rules(refused={"a": {"kvm1": "other zone"}}, together=pairs)
    made = plan(filled([node("kvm1"), node("kvm2"), node("kvm3")], guests), guests, rules)
    assert moves(made) == [("web2", "kvm1", "kvm2", None), ("web1", "kvm1", "kvm2", None)]
    assert made.after.violations == ()


def test_a_bundle_breaks_no_anti_affinity() -> None:
    """Beside the one whom both must be with their group has room for neither, for one, or for both."""
    guests = [
        *(guest(n, "kvm1", kind="a", group="g") for n in (1, 2)),
        guest(3, "kvm2"),
        guest(4, "kvm2", group="g"),
    ]
    pairs = [("uuid-001", "uuid-003"), ("uuid-002", "uuid-003")]
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    for most in (1, 2, 3):
        groups = {"g": Party(name="web", together=False, max_per_host=most)}
        rules = Rules(refused={"a": {"kvm1": "no ssd"}}, groups=groups, together=pairs)
        found = plan(nodes, guests, rules, only_rules=True)
        crowd = [text for text in found.after.violations if "of group web" in text]
        assert crowd == (["kvm1 has 2 of group web, 1 may be"] if most == 1 else []), most
    assert found.after.violations == ()


@pytest.mark.parametrize("tie", ["group", "apart"])
def test_a_bundle_does_not_go_where_one_to_be_apart_from_may_come_back(tie: str) -> None:
    group = "g" if tie == "group" else None
    guests = [
        guest(1, "kvm1", kind="a", group=group),
        guest(2, "kvm2"),
        guest(3, "kvm3", group=group, blocker="its last move is not confirmed"),
    ]
    rules = Rules(
        refused={"a": {"kvm1": "no ssd"}},
        groups={"g": Party(name="web", together=False)},
        together=[("uuid-001", "uuid-002")],
        apart=[("uuid-001", "uuid-003")] if tie == "apart" else [],
    )
    nodes = filled([node("kvm1"), node("kvm2"), node("kvm3")], guests)
    for held, goes in ([], "kvm2"), ([("uuid-003", "kvm2")], None):
        made = plan(nodes, guests, replace(rules, held=held), only_rules=True)
        assert {move.guest.name: move.target for move in made.moves}["web1"] == goes


def test_wishes_are_not_made_worse() -> None:
    """Soft groups keep nobody from a move that does not touch them, and stop one that would."""
    guests = [guest(1, "kvm1", 30 * GIB, group="g"), guest(2, "kvm2", GIB, group="g")]
    rules = Rules(groups={"g": Party(name="web", together=False, hard=False)})
    nodes = filled([node("kvm1"), node("kvm2", (0, 0, 0))], guests)
    assert plan(nodes, guests, rules).moves == ()
