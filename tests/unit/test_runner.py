"""The runner's promises on a journal in memory, and the closed registry of steps."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from novactl.engine.operation import Lock, Mode, OpState
from novactl.engine.step import Answer, Kind, RecordStep, Registry, Step
from novactl.errors import DatabaseError, NotFound, OperationFailed, Refused
from tests.support.toys import TOYS, Bench, BenchMaker, DieAt, Died, Put, Turn, memory_bench

pytest.register_assert_rewrite("tests.support.runner_contract")
from tests.support.runner_contract import ALL, STEPS, RunnerContract, begun, instants  # noqa: E402


class TestInMemory(RunnerContract):
    @pytest.fixture
    def make(self) -> BenchMaker:
        return memory_bench


@pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
def test_dying_twice_and_then_finishing(back: bool) -> None:
    """Every pair of instants: the first run dies, the one that takes over dies too, the third ends it."""
    points = instants(memory_bench, STEPS)
    pairs = 0
    for (point, n), (again, m) in itertools.product(points, points):
        bench = memory_bench()
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt(point, n)).run(bench.load(op_id))
        try:
            bench.runner(DieAt(again, m)).run(bench.load(op_id))
        except Died:
            pairs += 1
        except OperationFailed:
            pass
        if bench.load().state is not OpState.DONE and back:
            try:
                bench.runner().roll_back(bench.load(op_id))
            except Refused:
                bench.runner().run(bench.load(op_id))
                assert bench.left() == ALL, (point, n, again, m)
            else:
                assert bench.left() == set(), (point, n, again, m)
        else:
            bench.runner().run(bench.load(op_id))
            assert bench.left() == ALL, (point, n, again, m)
    assert pairs > 150


def test_a_failure_while_dead_processes_are_about_never_loses_a_thing() -> None:
    """Dies anywhere while undoing, then dies anywhere while undoing the rest; a rollback ends it."""
    points = [(p, n) for p, n in instants(memory_bench, STEPS, failing="turn") if "undo" in p]
    for (point, n), (again, m) in itertools.product(points, points):
        bench = memory_bench()
        bench.world.faults[("do", "turn")] = OperationFailed("no")
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt(point, n)).run(bench.load(op_id))
        try:
            bench.runner(DieAt(again, m)).roll_back(bench.load(op_id))
        except Died:
            bench.runner().roll_back(bench.load(op_id))
        assert bench.left() - {"turn.part"} == set(), (point, n, again, m)
        assert bench.load().state is OpState.UNDONE


def test_a_pivot_whose_question_fails_is_unknown() -> None:
    bench = memory_bench()

    class Mute(dict[str, Answer]):
        def get(self, *_: Any) -> Answer:  # type: ignore[override]
            raise Refused("host1: does not say")

    bench.world.answers = Mute()
    bench.world.faults[("do", "turn")] = Refused("no")
    op = bench.submit(Put(key="disk"), Turn(key="turn"))
    with pytest.raises(Exception, match=r"was left half way at turn: no") as caught:
        bench.runner().run(op)
    assert caught.value.code == 11  # type: ignore[attr-defined]
    assert "disk" in bench.left()


def test_an_unknown_operation() -> None:
    with pytest.raises(NotFound, match=r"^operation 'op-9' does not exist$") as caught:
        memory_bench().load("op-9")
    assert caught.value.code == 4


def test_the_same_plan_twice_is_two_operations(make: BenchMaker = memory_bench) -> None:
    bench: Bench = make()
    first = bench.submit(Put(key="a"), locks=frozenset({Lock("host", "kvm1", Mode.SHARED)}))
    second = bench.submit(Put(key="a"), locks=frozenset({Lock("host", "kvm1", Mode.SHARED)}))
    assert first.id != second.id


# --- the registry ---


def test_registry_round_trip() -> None:
    step = Put(key="a\n'\"<é", host="kvm1")
    assert TOYS.dump(step) == {"type": "put", "version": 1, "fields": {"key": "a\n'\"<é", "host": "kvm1"}}
    assert TOYS.load(TOYS.dump(step)) == step


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"type": "warp", "version": 1, "fields": {}}, "^journal: step 'warp' version 1 is not known here$"),
        ({"type": "put", "version": 2, "fields": {}}, "^journal: step 'put' version 2 is not known here$"),
        ({"type": "put", "version": 1}, "^journal: step 'put' version 1 is not known here$"),
        ({"version": 1, "fields": {}}, "^journal: step None version 1 is not known here$"),
        ({"type": ["put"], "version": 1, "fields": {}}, "is not known here$"),
        (
            {"type": "put", "version": 1, "fields": {"key": "a"}},
            "^journal: fields of step put are not host, key$",
        ),
        (
            {"type": "put", "version": 1, "fields": {"key": "a", "host": None, "more": 1}},
            "^journal: fields of step put are not host, key$",
        ),
        ({"type": "put", "version": 1, "fields": ["a"]}, "^journal: fields of step put are not host, key$"),
    ],
)
def test_what_another_novactl_wrote_is_refused_naming_it(data: dict[str, Any], message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        TOYS.load(data, written_by="9.9.9")
    assert caught.value.code == 9
    assert "9.9.9" in caught.value.hint


KINDS = Registry()


@KINDS.add
@dataclass(frozen=True, kw_only=True)
class Every(Step):
    """All kinds of fields."""

    type: ClassVar[str] = "every"
    number: int
    maybe: int | None
    flag: bool
    real: float
    words: list[str]
    table: list[list[str]]
    pairs: dict[str, Any]


GOOD: dict[str, Any] = {
    "host": None,
    "number": 1,
    "maybe": None,
    "flag": True,
    "real": 1.5,
    "words": ["a"],
    "table": [["a", "b"]],
    "pairs": {"a": [1, None]},
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("number", "1"),
        ("number", True),
        ("number", None),
        ("number", 1.0),
        ("maybe", "1"),
        ("flag", 1),
        ("flag", None),
        ("real", "1"),
        ("words", "a"),
        ("words", [1]),
        ("words", {"a": 1}),
        ("table", ["ab"]),
        ("table", [[1]]),
        ("pairs", [1]),
        ("host", 1),
    ],
)
def test_a_field_of_a_wrong_type_is_refused(field: str, value: Any) -> None:
    KINDS.load({"type": "every", "version": 1, "fields": GOOD})
    with pytest.raises(DatabaseError, match=rf"^journal: field {field} of step every has a wrong type$"):
        KINDS.load({"type": "every", "version": 1, "fields": {**GOOD, field: value}})


def test_a_step_is_registered_once() -> None:
    registry = Registry()
    registry.add(Put)
    with pytest.raises(TypeError, match=r"is registered twice"):
        registry.add(Put)


@dataclass(frozen=True, kw_only=True)
class Empty(Step):
    type: ClassVar[str] = "empty"


@dataclass(frozen=True, kw_only=True)
class EmptyRecord(RecordStep):
    type: ClassVar[str] = "empty-record"


def test_a_step_that_forgets_its_undo_says_so() -> None:
    with pytest.raises(TypeError, match=r"^empty has no undo\(\)$"):
        Empty().undo(None)
    with pytest.raises(TypeError, match=r"^empty has no do\(\)$"):
        Empty().do(None)
    with pytest.raises(TypeError, match=r"^empty has no happened\(\)$"):
        Empty().happened(None)
    with pytest.raises(TypeError, match=r"^empty-record has no revert\(\)$"):
        EmptyRecord().revert(None, None)
    with pytest.raises(TypeError, match=r"^empty-record has no apply\(\)$"):
        EmptyRecord().apply(None, None)


def test_every_step_of_novactl_keeps_the_rules() -> None:
    """What a step's kind asks of it is there; its words are not empty; its fields can be journaled."""
    from novactl.actions.steps import REGISTRY

    steps = list(REGISTRY)
    assert len(steps) >= 17
    for step in steps:
        base = RecordStep if issubclass(step, RecordStep) else Step
        undo = "revert" if base is RecordStep else "undo"
        do = "apply" if base is RecordStep else "do"
        assert getattr(step, do) is not getattr(base, do), f"{step.type} does nothing"
        if step.kind is Kind.COMPENSATABLE:
            assert getattr(step, undo) is not getattr(base, undo), f"{step.type} has no undo"
        else:
            assert getattr(step, undo) is getattr(base, undo), f"{step.type} cannot be undone but tries"
        if step.kind is Kind.PIVOT and base is Step:
            assert step.happened is not Step.happened, f"{step.type} cannot be asked"
        assert step.__doc__, f"{step.type} does not say what it promises"
        assert not step.__doc__.startswith(step.__name__), f"{step.type} does not say what it promises"
