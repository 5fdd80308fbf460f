"""What the runner promises, on any journal: subclasses say which (`bench`, `make`)."""

import pytest

from novactl.engine.operation import Lock, Mode, OpState, StepState
from novactl.engine.ports import INSTANTS
from novactl.engine.step import Answer, Step
from novactl.errors import (
    Busy,
    Fenced,
    HostFault,
    HostUnreachable,
    Interrupted,
    OperationFailed,
    OperationIncomplete,
    Refused,
)
from tests.support.toys import (
    Bench,
    BenchMaker,
    Claim,
    DieAt,
    Died,
    Note,
    NoteAfter,
    Put,
    Reached,
    Tidy,
    Turn,
    TurnRecord,
)

COMMON = (Claim(key="row"),)
STEPS: tuple[Step, ...] = (
    Claim(key="claim"),
    Put(key="base"),
    Note(key="note"),
    Put(key="disk"),
    Turn(key="turn"),
    Tidy(key="tidy"),
    NoteAfter(key="after"),
)
RECORD_TURN: tuple[Step, ...] = (
    Claim(key="claim"),
    Put(key="disk"),
    TurnRecord(key="turn"),
    Tidy(key="tidy"),
    NoteAfter(key="after"),
)
ALL = {"row", "claim", "base", "note", "disk", "turn", "tidy", "after"}
ALL_RECORD = {"row", "claim", "disk", "turn", "tidy", "after"}


def begun(bench: Bench, steps: tuple[Step, ...] = STEPS) -> str:
    return bench.submit(*steps, common=COMMON).id


def instants(make: BenchMaker, steps: tuple[Step, ...], *, failing: str = "") -> list[tuple[str, int]]:
    """Where a process could die while it carries the steps out; with `failing`, while it undoes them
    because that step failed."""
    bench, reached = make(), Reached()
    op = bench.submit(*steps, common=COMMON)
    if not failing:
        bench.runner(reached).run(op)
        return reached.instants
    bench.world.faults[("do", failing)] = HostFault("host1: no")
    with pytest.raises(OperationFailed):
        bench.runner(reached).run(op)
    return reached.instants


class RunnerContract:
    """Tests of the runner that hold for each journal."""

    @pytest.fixture
    def make(self) -> BenchMaker:
        raise NotImplementedError

    @pytest.fixture
    def bench(self, make: BenchMaker) -> Bench:
        return make()

    # --- the order of what is written ---

    def test_every_act_is_written_down_before_and_after(self, bench: Bench) -> None:
        op = bench.submit(Put(key="disk"), Note(key="note"), Turn(key="turn"), Tidy(key="tidy"))
        assert bench.runner().run(op) is op
        assert bench.log == [
            "running",
            *("started disk", "do disk", "done disk"),
            *("apply note", "done note"),
            *("started turn", "do turn", "done turn"),
            *("started tidy", "do tidy", "done tidy"),
            "done",
        ]
        assert bench.observed == [
            *(("started", "disk"), ("done", "disk")),
            ("done", "note"),
            *(("started", "turn"), ("done", "turn")),
            *(("started", "tidy"), ("done", "tidy")),
        ]
        assert bench.left() == {"disk", "note", "turn", "tidy"}
        stored = bench.load()
        assert (stored.state, stored.error, stored.steps_done) == (OpState.DONE, None, 4)
        assert bench.journaled.ended() == [(op.id, "done")]

    def test_a_failure_undoes_every_started_step_in_reverse_the_failing_one_first(self, bench: Bench) -> None:
        op = bench.submit(
            Put(key="base"), Note(key="note"), Put(key="disk"), Put(key="never"), common=(Claim(key="row"),)
        )
        bench.world.faults[("do", "disk")] = ValueError("broken")
        with pytest.raises(OperationFailed, match=r"^toy of web1: ValueError: broken$") as caught:
            bench.runner().run(op)
        assert (caught.value.code, caught.value.operation) == (1, op.id)
        assert bench.log == [
            "running",
            *("started base", "do base", "done base"),
            *("apply note", "done note"),
            *("started disk", "do disk", "failed disk"),
            "undoing",
            *("undo disk", "undone disk"),
            *("revert note", "undone note"),
            *("undo base", "undone base"),
            "undoing",  # the same again, not written twice
            *("revert row", "undone row"),
            "undone",
        ]
        assert bench.left() == set()
        assert bench.states() == {
            "row": "undone",
            "base": "undone",
            "note": "undone",
            "disk": "undone",
            "never": "pending",
        }
        assert (bench.load().state, bench.load().error) == (OpState.UNDONE, "ValueError: broken")
        assert bench.journaled.held() == set()

    def test_a_record_step_that_fails_leaves_nothing_of_itself(self, bench: Bench) -> None:
        op = bench.submit(Put(key="disk"), Note(key="note"))
        bench.world.faults[("apply", "note")] = Refused("no")
        with pytest.raises(OperationFailed, match=r"^toy of web1: no$"):
            bench.runner().run(op)
        assert bench.left() == set()
        assert bench.states() == {"disk": "undone", "note": "undone"}

    def test_a_step_reads_the_journaled_result_of_an_earlier_one(self, bench: Bench) -> None:
        op = bench.submit(Put(key="first"), Turn(key="turn"))
        bench.runner().run(op)
        assert bench.load().records[0].result == {"made": "first", "of": None}

    def test_steps_and_request_come_back_as_they_were_written(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        stored = bench.load()
        assert [record.step for record in stored.records] == [*COMMON, *STEPS]
        assert [record.attempt for record in stored.records] == [0, *[1] * len(STEPS)]
        assert [record.n for record in stored.records] == list(range(1, len(STEPS) + 2))
        assert stored.request == {"wish": "é\n"}
        assert (stored.state, stored.epoch, stored.id) == (OpState.PLANNED, 1, op.id)
        assert {r.step.key for r in stored.records if r.state is StepState.DONE} == {"row", "claim"}

    # --- the pivot's answers ---

    @pytest.mark.parametrize("answer", [None, Answer.NO])
    def test_a_pivot_that_failed_and_did_not_happen_is_undone(
        self, bench: Bench, answer: Answer | None
    ) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        bench.world.faults[("do", "turn")] = HostFault("host1: no")
        if answer:
            bench.world.answers["turn"] = answer
        with pytest.raises(OperationFailed, match=r"^toy of web1: host1: no$"):
            bench.runner().run(op)
        assert bench.left() - {"turn.part"} == set()
        assert bench.load().state is OpState.UNDONE

    def test_a_pivot_that_failed_but_happened_goes_on(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        bench.world.faults[("do", "turn")] = HostUnreachable("host1: the reply was lost")
        bench.world.answers["turn"] = Answer.YES
        bench.runner().run(op)
        assert bench.load().state is OpState.DONE
        assert bench.states()["turn"] == "done"
        assert bench.load().records[5].error is None
        assert {"tidy", "after", "claim", "disk"} <= bench.left()

    @pytest.mark.parametrize("answer", [Answer.UNKNOWN, Answer.IN_PROGRESS])
    def test_a_pivot_that_nobody_knows_of_is_left_alone(self, bench: Bench, answer: Answer) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        bench.world.faults[("do", "turn")] = HostUnreachable("host1: gone")
        bench.world.answers["turn"] = answer
        with pytest.raises(
            OperationIncomplete, match=r"^toy of web1 was left half way at turn: host1: gone$"
        ) as caught:
            bench.runner().run(op)
        assert caught.value.code == 11
        assert caught.value.operation == op.id
        assert op.id in caught.value.hint
        assert bench.load().state is OpState.INCOMPLETE
        assert {"row", "claim", "base", "note", "disk"} <= bench.left()  # nothing was touched
        assert not {"tidy", "after"} & bench.left()
        assert bench.journaled.held() == {("instance/u-1/X", op.id)}  # and nobody else may touch it

    @pytest.mark.parametrize("answer", list(Answer))
    def test_resume_asks_a_started_pivot_first(self, bench: Bench, answer: Answer) -> None:
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt("after-intent", 6)).run(bench.load(op_id))
        bench.world.answers["turn"] = answer
        bench.log.clear()
        match answer:
            case Answer.YES:
                bench.runner().run(bench.load(op_id))
                assert "do turn" not in bench.log  # it happened: not again
                assert bench.left() == ALL - {"turn"}
            case Answer.NO:
                bench.runner().run(bench.load(op_id))
                assert bench.log.index("ask turn") < bench.log.index("do turn")
                assert bench.left() == ALL
            case Answer.IN_PROGRESS:
                bench.runner().run(bench.load(op_id))  # do() attaches
                assert bench.left() == ALL
            case Answer.UNKNOWN:
                with pytest.raises(OperationIncomplete, match=r"gives no answer about turn"):
                    bench.runner().run(bench.load(op_id))
                assert "do turn" not in bench.log
                assert bench.left() == {"row", "claim", "base", "note", "disk"}

    @pytest.mark.parametrize("answer", list(Answer))
    def test_rollback_asks_a_started_pivot_first(self, bench: Bench, answer: Answer) -> None:
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt("after-intent", 6)).run(bench.load(op_id))
        bench.world.answers["turn"] = answer
        bench.log.clear()
        before = bench.left()
        if answer is Answer.NO:
            bench.runner().roll_back(bench.load(op_id))
            assert bench.left() == set()
            assert bench.load().state is OpState.UNDONE
            return
        expected = OperationIncomplete if answer is Answer.UNKNOWN else Refused
        with pytest.raises(expected) as caught:
            bench.runner().roll_back(bench.load(op_id))
        assert caught.value.code == (11 if answer is Answer.UNKNOWN else 5)
        assert bench.left() == before
        assert not [line for line in bench.log if line.startswith("undo")]

    # --- past the pivot ---

    @pytest.mark.parametrize("steps", [STEPS, RECORD_TURN])
    def test_past_the_pivot_it_goes_only_forward(self, bench: Bench, steps: tuple[Step, ...]) -> None:
        op = bench.submit(*steps, common=COMMON)
        bench.world.faults[("do", "tidy")] = HostUnreachable("host1: gone")
        with pytest.raises(
            OperationIncomplete, match=r"^toy of web1 was left half way at tidy: host1: gone$"
        ):
            bench.runner().run(op)
        assert not [line for line in bench.log if line.startswith(("undo", "revert"))]
        with pytest.raises(Refused, match=r"is past its point of no return") as caught:
            bench.runner().roll_back(bench.load(op.id))
        assert (caught.value.code, caught.value.hint) == (5, f"novactl op resume {op.id}")
        assert bench.load().state is OpState.INCOMPLETE
        bench.world.faults.clear()
        bench.runner().run(bench.load(op.id))
        assert bench.load().state is OpState.DONE
        assert bench.load().error is None

    def test_interrupt_and_cancel_are_too_late_past_the_pivot(self, bench: Bench) -> None:
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt("after-record", 6)).run(bench.load(op_id))
        bench.interrupt.set()
        bench.journaled.request_cancel(op_id)
        bench.runner().run(bench.load(op_id))
        assert bench.left() == ALL

    # --- an undo that fails ---

    def test_undoing_stops_where_it_fails_and_can_be_resumed(self, bench: Bench) -> None:
        op = bench.submit(Put(key="base"), Put(key="disk"), Put(key="domain"), common=COMMON)
        bench.world.faults[("do", "domain")] = HostFault("host1: no")
        bench.world.faults[("undo", "disk")] = HostUnreachable("host1: gone")
        with pytest.raises(
            OperationIncomplete, match=r"^toy of web1 was left half way at put: host1: gone$"
        ) as caught:
            bench.runner().run(op)
        assert caught.value.code == 11
        assert bench.states() == {"row": "done", "base": "done", "disk": "stuck", "domain": "undone"}
        assert bench.left() == {"row", "base", "disk"}  # base may still be in use by disk
        assert bench.journaled.held() == {("instance/u-1/X", op.id)}
        with pytest.raises(OperationIncomplete):
            bench.runner().roll_back(bench.load(op.id))  # the host is still away
        bench.world.faults.clear()
        bench.runner().roll_back(bench.load(op.id))
        assert bench.left() == set()
        assert bench.load().state is OpState.UNDONE

    def test_resume_of_an_undoing_operation_undoes_the_rest(self, bench: Bench) -> None:
        """What was taken back (a claim!) was taken back for good: going forward would do without it."""
        op = bench.submit(Claim(key="claim"), Put(key="disk"), Turn(key="turn"), common=COMMON)
        bench.world.faults[("do", "turn")] = HostFault("host1: no")
        with pytest.raises(Died):
            bench.runner(DieAt("after-undo-record", 2)).run(op)
        assert bench.states() == {"row": "done", "claim": "undone", "disk": "undone", "turn": "undone"}
        bench.world.faults.clear()
        with pytest.raises(OperationFailed, match=r"host1: no") as caught:
            bench.runner().run(bench.load(op.id))
        assert (caught.value.code, caught.value.operation) == (1, op.id)
        assert bench.left() == set() or bench.left() == {"turn.part"}
        assert bench.load().state is OpState.UNDONE

    # --- the next attempt ---

    @pytest.mark.parametrize("error", [HostFault("host1: full"), HostUnreachable("host1: gone")])
    def test_a_host_that_fails_is_undone_and_the_next_attempt_appended(
        self, bench: Bench, error: Exception
    ) -> None:
        op = bench.submit(Claim(key="claim1"), Put(key="disk1"), common=COMMON)
        bench.world.faults[("do", "disk1")] = error
        bench.next_steps = [(Claim(key="claim2"), Put(key="disk2"), Turn(key="turn"))]
        bench.runner().run(op)
        assert bench.left() == {"row", "claim2", "disk2", "turn"}
        stored = bench.load()
        assert (stored.state, stored.attempt, stored.error) == (OpState.DONE, 2, None)
        assert [(record.step.key, record.attempt, record.state) for record in stored.records] == [
            ("row", 0, "done"),
            ("claim1", 1, "undone"),
            ("disk1", 1, "undone"),
            ("claim2", 2, "done"),
            ("disk2", 2, "done"),
            ("turn", 2, "done"),
        ]
        assert bench.log.index("undone claim1") < bench.log.index("attempt 2") < bench.log.index("do disk2")

    def test_a_fault_of_ours_gets_no_next_attempt(self, bench: Bench) -> None:
        op = bench.submit(Put(key="disk1"), common=COMMON)
        bench.world.faults[("do", "disk1")] = Refused("no")
        bench.next_steps = [(Put(key="disk2"),)]
        with pytest.raises(OperationFailed, match=r"^toy of web1: no$"):
            bench.runner().run(op)
        assert bench.left() == set()

    def test_the_last_failure_undoes_all_attempts(self, bench: Bench) -> None:
        op = bench.submit(Claim(key="claim1"), Put(key="disk1"), common=COMMON)
        bench.world.faults[("do", "disk1")] = HostFault("host1: full")
        bench.world.faults[("do", "disk2")] = HostFault("host2: full")
        bench.next_steps = [(Claim(key="claim2"), Put(key="disk2"))]
        with pytest.raises(OperationFailed, match=r"^toy of web1: host2: full$"):
            bench.runner().run(op)
        assert bench.left() == set()
        assert bench.load().attempt == 2

    def test_an_attempt_that_cannot_be_planned_leaves_the_operation_as_it_was(self, bench: Bench) -> None:
        op = bench.submit(Put(key="disk1"), common=COMMON)

        def refuses(tx: object) -> None:
            tx.insert("meta", name="claim2", value="claimed")  # type: ignore[attr-defined]
            raise Refused("no room any more")

        with pytest.raises(Refused):
            bench.journaled.journal.append_attempt(op, refuses)
        assert (bench.load().attempt, len(bench.load().records)) == (1, 2)
        assert bench.left() == {"row"}

    def test_the_next_attempt_takes_its_own_locks(self, bench: Bench) -> None:
        first, second = Lock("host", "kvm1", Mode.SHARED), Lock("host", "kvm2", Mode.SHARED)
        op = bench.submit(Put(key="disk1"), locks=frozenset({first}))
        bench.world.faults[("do", "disk1")] = HostFault("kvm1: full")
        bench.world.faults[("do", "tidy")] = HostFault("kvm2: full")
        bench.next_steps = [(Turn(key="turn"), Tidy(key="tidy"))]
        bench.next_locks = frozenset({first, second})
        with pytest.raises(OperationIncomplete):
            bench.runner().run(op)
        assert bench.journaled.held() == {("host/kvm1/S", op.id), ("host/kvm2/S", op.id)}
        bench.world.faults.clear()
        bench.runner().run(bench.load(op.id))
        assert bench.journaled.held() == set()

    def test_a_next_attempt_whose_lock_is_held_is_not_appended(self, bench: Bench) -> None:
        bench.submit(Put(key="other"), locks=frozenset({Lock("host", "kvm2", Mode.EXCLUSIVE)}))
        op = bench.submit(Put(key="disk1"), common=COMMON)
        bench.next_steps = [(Claim(key="claim2"),)]
        bench.next_locks = frozenset({Lock("host", "kvm2", Mode.SHARED)})
        runner = bench.runner()
        with pytest.raises(Busy):
            bench.journaled.journal.append_attempt(op, lambda tx: runner.next_attempt(tx, op, "full"))
        assert (bench.load(op.id).attempt, len(bench.load(op.id).records)) == (1, 2)
        assert bench.left() == {"row"}

    # --- one owner ---

    @pytest.mark.parametrize("write", ["started", "done", "failed", "undone", "stuck", "turn", "append"])
    def test_who_lost_the_operation_writes_no_more(self, bench: Bench, write: str) -> None:
        op = bench.submit(Note(key="note"))
        bench.take(op.id)
        before = bench.load(op.id)
        journal, record = bench.journaled.journal, op.records[0]
        with pytest.raises(Fenced, match=rf"^{op.id}: another novactl has taken it over$") as caught:
            match write:
                case "turn":
                    journal.turn(op, OpState.DONE)
                case "append":
                    journal.append_attempt(op, lambda tx: pytest.fail("it was planned"))
                case "done" | "undone":
                    effect = lambda tx: tx.insert("meta", name="note", value="x")  # noqa: E731
                    getattr(journal, write)(op, record, effect)
                case "failed" | "stuck":
                    getattr(journal, write)(op, record, "no")
                case _:
                    journal.started(op, record)
        assert caught.value.code == 6
        assert bench.left() == set()
        assert bench.load(op.id) == before

    def test_a_process_that_wakes_after_a_take_over_touches_nothing(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)

        class Sleeps(Reached):
            def reach(self, at: str, record: object) -> None:
                if (at, record.n) == ("after-act", 5):  # type: ignore[attr-defined]
                    bench.runner().roll_back(bench.take(op.id))
                    bench.log.clear()

        with pytest.raises(Fenced):
            bench.runner(Sleeps()).run(op)
        assert bench.log == []
        assert bench.left() == set()
        assert bench.load().state is OpState.UNDONE

    # --- interrupt and cancel ---

    @pytest.mark.parametrize("point", ["after-record", "after-intent"])
    def test_an_interrupt_stops_before_the_next_step_and_undoes(self, bench: Bench, point: str) -> None:
        class Press(Reached):
            def reach(self, at: str, record: object) -> None:
                if (at, record.n) == (point, 3):  # type: ignore[attr-defined]
                    bench.interrupt.set()

        op = bench.submit(*STEPS, common=COMMON)
        with pytest.raises(Interrupted, match=r"^toy of web1: interrupted$") as caught:
            bench.runner(Press()).run(op)
        assert (caught.value.code, caught.value.operation) == (130, op.id)
        assert "do base" in bench.log  # the step at hand was finished
        assert "apply note" not in bench.log
        assert bench.left() == set()
        assert bench.load().state is OpState.UNDONE

    def test_a_cancel_stops_before_the_next_step_and_undoes(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        bench.journaled.request_cancel(op.id)
        with pytest.raises(Interrupted, match=r"^toy of web1: toy of web1 was cancelled$") as caught:
            bench.runner().run(op)
        assert caught.value.code == 130
        assert bench.left() == set()

    def test_an_interrupt_before_a_pivot_that_was_not_begun_asks_nobody(self, bench: Bench) -> None:
        op_id = begun(bench)
        with pytest.raises(Died):
            bench.runner(DieAt("after-record", 5)).run(bench.load(op_id))
        bench.world.answers["turn"] = Answer.UNKNOWN  # its host is away
        bench.interrupt.set()
        with pytest.raises(Interrupted):
            bench.runner().run(bench.load(op_id))
        assert bench.left() == set()

    def test_fenced_means_hands_off(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        bench.world.faults[("do", "disk")] = Fenced("host1: newer epoch")

        class Taken(Reached):
            def reach(self, at: str, record: object) -> None:
                if (at, record.n) == ("after-intent", 5):  # type: ignore[attr-defined]
                    bench.take(op.id)

        with pytest.raises(Fenced) as caught:
            bench.runner(Taken()).run(op)
        assert caught.value.code == 6
        assert not [line for line in bench.log if line.startswith(("undo", "revert", "failed"))]
        assert bench.load().state is OpState.RUNNING  # it is somebody else's now

    @pytest.mark.parametrize("what", ["do", "undo"])
    def test_fenced_by_a_host_though_it_is_ours_is_left_half_way(self, bench: Bench, what: str) -> None:
        """The host knows more than the database: it was restored from a backup."""
        op = bench.submit(*STEPS, common=COMMON)
        if what == "undo":
            bench.world.faults[("do", "turn")] = HostFault("host1: no")
        bench.world.faults[(what, "disk")] = Fenced("host1: newer epoch")
        with pytest.raises(OperationIncomplete, match=r"left half way at put: host1: newer epoch$"):
            bench.runner().run(op)
        assert f"{what} disk" in bench.log
        assert "undo base" not in bench.log
        assert bench.load().state is OpState.INCOMPLETE
        assert bench.journaled.held() == {("instance/u-1/X", op.id)}

    # --- death at every instant ---

    def test_every_instant_is_reached(self, make: BenchMaker) -> None:
        forward = {point for point, _ in instants(make, STEPS)}
        back = {point for point, _ in instants(make, STEPS, failing="turn")}
        assert forward | back == set(INSTANTS)

    @pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
    @pytest.mark.parametrize("steps", [STEPS, RECORD_TURN], ids=["turn", "record-turn"])
    def test_death_at_every_instant_forward(
        self, make: BenchMaker, steps: tuple[Step, ...], back: bool
    ) -> None:
        everything = ALL if steps is STEPS else ALL_RECORD
        points = instants(make, steps)
        assert len(points) >= 12
        for point, n in points:
            bench = make()
            op_id = begun(bench, steps)
            with pytest.raises(Died):
                bench.runner(DieAt(point, n)).run(bench.load(op_id))
            assert bench.journaled.held() == {("instance/u-1/X", op_id)}
            if back:
                try:
                    bench.runner().roll_back(bench.load(op_id))
                except Refused as error:
                    assert error.code == 5
                    assert bench.world.things | bench.journaled.names() >= {"turn"}
                else:
                    assert bench.left() == set(), (point, n)
                    assert bench.load().state is OpState.UNDONE
                    assert bench.journaled.held() == set()
                    continue
            bench.runner().run(bench.load(op_id))
            assert bench.left() == everything, (point, n)
            assert bench.load().state is OpState.DONE
            assert bench.journaled.held() == set()

    @pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
    def test_death_at_every_instant_of_undoing(self, make: BenchMaker, back: bool) -> None:
        points = [(p, n) for p, n in instants(make, STEPS, failing="turn") if "undo" in p]
        assert len(points) > 12
        for point, n in points:
            bench = make()
            bench.world.faults[("do", "turn")] = HostFault("host1: no")
            op_id = begun(bench)
            with pytest.raises(Died):
                bench.runner(DieAt(point, n)).run(bench.load(op_id))
            bench.world.faults.clear()
            bench.world.things.discard("turn.part")
            if back:
                bench.runner().roll_back(bench.load(op_id))
            else:
                try:
                    bench.runner().run(bench.load(op_id))
                except OperationFailed:
                    assert bench.load().state is OpState.UNDONE
                else:
                    assert bench.left() == ALL, (point, n)
                    assert bench.load().state is OpState.DONE
                    continue
            assert bench.left() == set(), (point, n)
            assert bench.load().state is OpState.UNDONE
            assert bench.journaled.held() == set()

    @pytest.mark.parametrize("back", [False, True], ids=["resume", "rollback"])
    def test_death_in_the_middle_of_every_act(self, make: BenchMaker, back: bool) -> None:
        for key in ("base", "disk", "turn", "tidy"):
            bench = make()
            bench.world.faults[("do", key)] = Died()
            op_id = begun(bench)
            with pytest.raises(Died):
                bench.runner().run(bench.load(op_id))
            assert f"{key}.part" in bench.left()
            bench.world.faults.clear()
            if back and key != "tidy":
                bench.runner().roll_back(bench.load(op_id))
                assert bench.left() - {"turn.part"} == set()
            else:
                bench.runner().run(bench.load(op_id))
                assert bench.left() == ALL

    # --- locks ---

    @pytest.mark.parametrize(
        ("first", "second", "free"),
        [
            (Mode.SHARED, Mode.SHARED, True),
            (Mode.SHARED, Mode.EXCLUSIVE, False),
            (Mode.EXCLUSIVE, Mode.SHARED, False),
            (Mode.EXCLUSIVE, Mode.EXCLUSIVE, False),
        ],
    )
    def test_locks(self, bench: Bench, first: Mode, second: Mode, free: bool) -> None:
        holder = bench.submit(Put(key="a"), locks=frozenset({Lock("host", "kvm1", first)}))
        wanted = frozenset({Lock("host", "kvm1", second), Lock("host", "kvm2", Mode.EXCLUSIVE)})
        if free:
            bench.submit(Put(key="b"), locks=wanted)
            return
        with pytest.raises(Busy, match=rf"host is held by .*{holder.id}") as caught:
            bench.submit(Put(key="b"), Claim(key="claim"), locks=wanted)
        assert (caught.value.code, caught.value.operation, caught.value.retryable) == (6, holder.id, True)
        assert bench.left() == set()  # the claim of the refused one went with it
        assert bench.journaled.held() == {(f"host/kvm1/{first}", holder.id)}
        bench.runner().run(bench.load(holder.id))
        bench.submit(Put(key="b"), Claim(key="claim"), locks=wanted)

    def test_locks_of_other_kinds_and_names_do_not_meet(self, bench: Bench) -> None:
        bench.submit(Put(key="a"), locks=frozenset({Lock("host", "kvm1", Mode.EXCLUSIVE)}))
        others = frozenset({Lock("host", "kvm2", Mode.EXCLUSIVE), Lock("image", "kvm1", Mode.EXCLUSIVE)})
        bench.submit(Put(key="b"), locks=others)

    def test_locks_are_held_while_it_is_incomplete_and_freed_when_it_ends(self, bench: Bench) -> None:
        op = bench.submit(*STEPS, common=COMMON)
        held = {("instance/u-1/X", op.id)}
        bench.world.faults[("do", "tidy")] = HostFault("host1: no")
        with pytest.raises(OperationIncomplete):
            bench.runner().run(op)
        assert bench.journaled.held() == held
        bench.world.faults.clear()
        bench.runner().run(bench.load(op.id))
        assert bench.journaled.held() == set()
        assert bench.journaled.ended() == [(op.id, "incomplete"), (op.id, "done")]
