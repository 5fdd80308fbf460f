"""What of cron's concerns is told, and when again."""

from novactl.actions.cron.news import AGAIN, News, Told, news
from novactl.actions.cron.task import Report
from novactl.objects.moments import before, seconds_between

NOW = "2026-03-01T12:00:00.000000Z"


def later(seconds: float) -> str:
    return before(NOW, -seconds)


def report(partial: bool = False, **concerns: str) -> Report:
    return Report(concerns=concerns, partial=partial)


def test_each_thing_is_told_once_and_when_it_is_over() -> None:
    told: Told = {}
    found, told = news(told, report(kvm1="kvm1: is down"), NOW)
    assert found == [News("kvm1", "new", "kvm1: is down", NOW)]
    found, told = news(told, report(kvm1="kvm1: does not answer"), later(60))  # other words, the same thing
    assert found == []
    found, told = news(told, report(kvm1="kvm1: is down", kvm2="kvm2: is down"), later(120))
    assert [(one.target, one.state) for one in found] == [("kvm2", "new")]
    found, told = news(told, report(kvm2="kvm2: is down"), later(180))
    assert found == [News("kvm1", "over", "over: kvm1: is down", NOW)]
    assert list(told) == ["kvm2"]
    found, told = news(told, report(kvm1="kvm1: is down"), later(240))
    assert [(one.target, one.state) for one in found] == [("kvm1", "new"), ("kvm2", "over")]


def test_what_goes_on_is_told_again_each_day() -> None:
    _, told = news({}, report(kvm1="x"), NOW)
    found, told = news(told, report(kvm1="x"), later(AGAIN - 1))
    assert found == []
    found, told = news(told, report(kvm1="x"), later(AGAIN))
    assert found == [News("kvm1", "still", "x", NOW)]
    found, told = news(told, report(kvm1="x"), later(AGAIN + 60))
    assert found == []
    found, told = news(told, report(kvm1="x"), later(2 * AGAIN))
    assert [one.state for one in found] == ["still"]


def test_what_was_not_looked_at_goes_on() -> None:
    _, told = news({}, report(kvm1="x"), NOW)
    found, told = news(told, report(partial=True, kvm2="y"), later(60))
    assert [(one.target, one.state) for one in found] == [("kvm2", "new")]
    assert sorted(told) == ["kvm1", "kvm2"]


def test_moments() -> None:
    assert before("2026-03-29T01:30:00.000000Z", 3600) == "2026-03-29T00:30:00.000000Z"
    assert seconds_between(NOW, later(90.5)) == 90.5
