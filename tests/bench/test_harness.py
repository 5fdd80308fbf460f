"""The verdict itself: noise passes, what has become slow stays."""

import pytest

from tests.bench.harness import Over, Results, settle
from tests.bench.limits import ATTEMPTS, QUICK_FACTOR

LIMIT = 0.01
SLOW = 100 * LIMIT * QUICK_FACTOR


def measured(results: Results, *seconds: float) -> None:
    results.add("it", *seconds)
    results.check_time("it", LIMIT)
    results.verdict("it")


def test_medians_are_compared_and_the_quick_variant_s_limits_are_wider() -> None:
    measured(Results(full=False), SLOW, LIMIT * QUICK_FACTOR, LIMIT)
    measured(Results(full=True), SLOW, LIMIT, LIMIT)
    with pytest.raises(Over, match="OVER it: "):
        measured(Results(full=False), SLOW, LIMIT, SLOW)
    with pytest.raises(Over, match=r"OVER it: .* median of it"):
        measured(Results(full=True), SLOW, LIMIT, LIMIT * QUICK_FACTOR)


def test_noise_passes() -> None:
    results, runs = Results(full=False), [SLOW, LIMIT, LIMIT]
    settle(lambda: measured(results, runs.pop(0)))
    assert runs == [] and results.checks["it"].holds


def test_what_is_slow_stays_over() -> None:
    results = Results(full=False)
    with pytest.raises(Over, match="OVER it: "):
        settle(lambda: measured(results, SLOW))
    assert len(results.runs["it"]) == ATTEMPTS


def test_any_other_failure_is_one_at_once() -> None:
    calls = []

    def measure() -> None:
        calls.append(1)
        raise AssertionError("something else")

    with pytest.raises(AssertionError, match="something else"):
        settle(measure)
    assert len(calls) == 1
