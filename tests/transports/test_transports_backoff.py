"""When the communication client tries again (REC)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2connect.transports.backoff import BASE_DELAY, BUSY_DELAY, MAX_BUSY, MAX_DELAY, SHORT_SESSION, Backoff

chances = st.floats(0, 1, exclude_max=True)


@pytest.mark.rule("REC-02")
def test_the_numbers_are_those_of_the_rule() -> None:
    assert (BASE_DELAY, MAX_DELAY) == (2.0, 600.0)
    backoff = Backoff()
    longest = [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600, 600]
    assert [backoff.failed(1.0) for _ in longest] == longest


@pytest.mark.rule("REC-02")
@given(st.lists(chances, max_size=40))
def test_the_nth_delay_is_random_up_to_its_bound(chances: list[float]) -> None:
    backoff = Backoff()
    for n, chance in enumerate(chances):
        delay = backoff.failed(chance)
        assert delay == pytest.approx(chance * min(600, 2 * 2**n))
        assert 0 <= delay <= 600


@pytest.mark.rule("REC-02")
def test_years_of_failures_are_no_overflow() -> None:
    backoff = Backoff()
    for _ in range(100_000):
        delay = backoff.failed(0.5)
    assert delay == 300


@pytest.mark.rule("REC-02")
@given(st.integers(0, 40))
def test_a_session_that_was_established_resets_the_delay(failures: int) -> None:
    backoff = Backoff()
    for _ in range(failures):
        backoff.failed(1.0)
    backoff.established()
    assert [backoff.failed(1.0), backoff.failed(1.0)] == [2, 4]


@pytest.mark.rule("REC-03")
@given(chances, st.floats(SHORT_SESSION, 1e7))
def test_a_restart_that_is_asked_for_comes_at_once(chance: float, lasted: float) -> None:
    assert Backoff().restart(lasted=lasted, chance=chance) == 0.0


@pytest.mark.rule("REC-03")
def test_a_server_that_asks_again_at_once_is_slowed_like_one_that_fails() -> None:
    backoff = Backoff()
    delays = [backoff.restart(lasted=0.1, chance=1.0) for _ in range(11)]
    assert delays == [2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]
    assert backoff.restart(lasted=SHORT_SESSION, chance=1.0) == 0.0


@pytest.mark.rule("REC-02")
@given(chances=st.lists(chances, min_size=1, max_size=30), retry_after=st.floats(0, 600))
def test_a_busy_server_is_asked_again_soon_and_not_by_all_at_once(chances: list[float], retry_after: float) -> None:
    backoff = Backoff()
    for number, chance in enumerate(chances):
        delay = backoff.busy(chance, retry_after=retry_after)
        spread = max(min(BUSY_DELAY, BASE_DELAY * 2.0**number), retry_after)
        assert delay == pytest.approx(retry_after + chance * spread)


@pytest.mark.rule("REC-02")
def test_a_server_that_is_busy_for_ever_is_asked_as_rarely_as_one_that_fails() -> None:
    backoff = Backoff()
    delays = [backoff.busy(0.5) for _ in range(MAX_BUSY + 1)]
    assert max(delays[:-1]) == BUSY_DELAY / 2
    assert delays[-1] == MAX_DELAY / 2
    backoff.established()
    assert backoff.busy(0.5) == BASE_DELAY / 2
