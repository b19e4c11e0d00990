"""Access to the page without a socket: password, links, sessions, and the limits of log-ins."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s2connect.errors import StorageUnavailable, UsageError
from s2connect.web.access import (
    CROWD,
    CROWD_PACE,
    FORGIVEN_AFTER,
    FREE_TRIES,
    IDLE_LIFETIME,
    LIFETIME,
    LINK_LIFETIME,
    LONGEST_WAIT,
    MAX_LINKS,
    MAX_NETWORKS,
    MAX_SESSIONS,
    MAX_WAITING,
    TOKEN_BYTES,
    Entered,
    LogIn,
    LogInLimiter,
    OneTimeLinks,
    PasswordHash,
    Sessions,
    is_of_this_page,
    may_read,
)

SALT = bytes(range(16))
CHEAP = (16, 1, 1)
"""Parameters of scrypt that take no time."""


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s2connect.web.access.SCRYPT", CHEAP)


def random_bytes(number: int) -> bytes:
    return number.to_bytes(4) * (TOKEN_BYTES // 2)


# Password


@given(st.text(min_size=8, max_size=40), st.text(max_size=60))
@settings(max_examples=60)
def test_a_password_is_known_again_and_no_other_one_is(password: str, other: str) -> None:
    try:
        made = PasswordHash.of(password, SALT)
    except UsageError:
        return  # shorter once it is normalised
    kept = PasswordHash.from_json(made.to_json())
    assert kept == made
    assert kept.matches(password)
    assert not kept.matches(other + "x") or (other + "x") == password
    assert password not in repr(made)


def test_a_password_may_be_typed_in_another_form_of_the_same_characters() -> None:
    made = PasswordHash.of("Gru\u0308ße dich", SALT)
    assert made.matches("Gr\u00fcße dich")
    assert not made.matches("grüße dich")


@pytest.mark.parametrize("password", ["", "sevench", "x" * 257])
def test_a_password_that_is_too_short_or_too_long_is_refused(password: str) -> None:
    with pytest.raises(UsageError):
        PasswordHash.of(password, SALT)


def test_a_very_long_attempt_costs_no_more_than_another_one() -> None:
    assert not PasswordHash.of("correct horse", SALT).matches("x" * 10_000_000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"scheme": "md5"}',
        b"\xff",
        PasswordHash(2**40, 8, 1, SALT, bytes(32)).to_json(),
        PasswordHash(3, 8, 1, SALT, bytes(32)).to_json(),
        PasswordHash(16, 0, 1, SALT, bytes(32)).to_json(),
        PasswordHash(16, 8, 99, SALT, bytes(32)).to_json(),
        PasswordHash(16, 8, 1, b"", bytes(32)).to_json(),
        PasswordHash(16, 8, 1, SALT, b"").to_json(),
    ],
)
def test_a_damaged_file_is_named_and_lets_nobody_in(content: bytes) -> None:
    with pytest.raises(StorageUnavailable, match="damaged"):
        PasswordHash.from_json(content)


# One-time links


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 400)), max_size=40))
def test_a_link_counts_once_and_not_for_long(steps: list[tuple[int, float]]) -> None:
    links, now = OneTimeLinks(), 0.0
    issued: dict[int, tuple[str, float]] = {}
    order: list[int] = []
    for number, passed in steps:
        now += passed
        if number in issued:
            token, at = issued.pop(number)
            counts = now < at + LINK_LIFETIME and number in order[-MAX_LINKS:]
            assert links.take(token, now=now) is counts
            assert not links.take(token, now=now)
            if number in order:
                order.remove(number)
        else:
            order = [one for one in order if one in issued and now < issued[one][1] + LINK_LIFETIME]
            issued[number] = links.issue(random_bytes(number), now=now), now
            order.append(number)


def test_the_token_of_a_link_is_not_kept() -> None:
    links = OneTimeLinks()
    token = links.issue(bytes(TOKEN_BYTES), now=0.0)
    assert token not in repr(vars(links))
    links.clear()
    assert not links.take(token, now=0.0)


# Sessions


def begin(sessions: Sessions, number: int, now: float, user: int | None = None) -> str:
    return sessions.begin(random_bytes(number) * 4, user=user, now=now)[0]


def test_a_session_ends_when_it_is_not_used_and_in_any_case_after_its_time() -> None:
    sessions = Sessions()
    cookie, now = begin(sessions, 1, 0.0), 0.0
    while now + IDLE_LIFETIME - 1 < LIFETIME:
        now += IDLE_LIFETIME - 1
        assert sessions.find(cookie, user=None, now=now) is not None
    assert sessions.find(cookie, user=None, now=LIFETIME) is None
    cookie = begin(sessions, 2, 0.0)
    assert sessions.find(cookie, user=None, now=IDLE_LIFETIME) is None
    assert len(sessions) == 0


def test_a_session_is_of_one_user_of_the_machine() -> None:
    sessions = Sessions()
    cookie = begin(sessions, 1, 0.0, user=1000)
    assert sessions.find(cookie, user=1001, now=1.0) is None
    assert sessions.find(cookie, user=None, now=1.0) is None
    assert sessions.find(cookie, user=1000, now=1.0) is not None


@given(st.lists(st.tuples(st.sampled_from(["begin", "use", "end", "all"]), st.integers(0, 200)), max_size=200))
def test_sessions_are_bounded_and_each_that_ends_says_so_once(steps: list[tuple[str, int]]) -> None:
    sessions, now = Sessions(), 0.0
    ended: list[str] = []
    cookies: list[str] = []
    for count, (what, number) in enumerate(steps):
        now += 60.0
        if what == "begin":
            cookie, session = sessions.begin(random_bytes(count) * 4, user=None, now=now)
            cookies.append(cookie)
            session.on_end.add(lambda cookie=cookie: ended.append(cookie))  # type: ignore[misc]
            assert session.has_csrf(session.csrf)
            assert not session.has_csrf(cookie)
        elif what == "all":
            sessions.end_all()
            assert len(sessions) == 0
        elif cookies:
            cookie = cookies[number % len(cookies)]
            found = sessions.find(cookie, user=None, now=now)
            assert (found is None) == (cookie in ended)
            if what == "end" and found is not None:
                sessions.end(found)
                assert cookie in ended
        assert len(sessions) <= MAX_SESSIONS
        assert len(sessions) == len(cookies) - len(ended)
    assert len(set(ended)) == len(ended)


# Log-ins by password


def attempt(limiter: LogInLimiter, network: str, now: float, *, right: bool = False) -> float:
    """Return 0 where an attempt was checked, otherwise how long it has to wait."""
    entered = limiter.enter(network, now=now)
    if entered.log_in is None:
        return entered.retry_after
    checked, wait = limiter.next(now=now)
    while checked is None:
        assert wait is not None
        now += wait
        checked, wait = limiter.next(now=now)
    assert checked is entered.log_in
    limiter.finish(checked, right, now=now)
    return 0.0


def test_waits_of_a_network_grow_and_are_bounded() -> None:
    limiter, now, waits = LogInLimiter(), 0.0, list[float]()
    while len(waits) < 15:
        if wait := attempt(limiter, "192.0.2.1", now):
            waits.append(wait)
            now += wait
    assert waits[0] == 2.0
    assert waits == sorted(waits)
    assert waits[-1] == LONGEST_WAIT
    assert limiter.wrong("192.0.2.1") == FREE_TRIES + len(waits)
    assert attempt(limiter, "192.0.2.1", now + FORGIVEN_AFTER) == 0.0
    assert limiter.wrong("192.0.2.1") == 1


def test_a_stranger_does_not_lock_out_another_network() -> None:
    limiter = LogInLimiter()
    for _ in range(200):
        attempt(limiter, "192.0.2.1", 0.0)
    assert limiter.enter("192.0.2.1", now=0.0).retry_after > 0
    assert limiter.enter("192.0.2.2", now=0.0).log_in is not None


def test_a_neighbour_in_the_same_network_does_not_lock_out_an_address_that_was_right_before() -> None:
    limiter, network = LogInLimiter(), "2001:db8::/64"

    def enter(address: str, *, right: bool) -> float:
        entered = limiter.enter(network, now=0.0, address=address)
        if entered.log_in is None:
            return entered.retry_after
        assert limiter.next(now=0.0) == (entered.log_in, None)
        limiter.finish(entered.log_in, right, now=0.0)
        return 0.0

    assert enter("2001:db8::1", right=True) == 0.0
    while not enter("2001:db8::bad", right=False):
        pass
    assert enter("2001:db8::new", right=True) > 0, "strangers of one network wait together"
    assert enter("2001:db8::1", right=True) == 0.0
    for _ in range(FREE_TRIES):
        assert enter("2001:db8::1", right=False) == 0.0
    assert enter("2001:db8::1", right=False) == 0.0
    assert enter("2001:db8::1", right=False) > 0, "its own wrong passwords count"


def test_a_right_password_forgives_what_was_wrong_before() -> None:
    limiter = LogInLimiter()
    for _ in range(FREE_TRIES):
        assert attempt(limiter, "a", 0.0) == 0.0
    assert attempt(limiter, "a", 0.0, right=True) == 0.0
    assert limiter.wrong("a") == 0


def test_a_crowd_gets_one_check_a_second_and_a_known_network_does_not_wait() -> None:
    limiter = LogInLimiter()
    attempt(limiter, "known", 0.0, right=True)
    for number in range(CROWD + 1):
        attempt(limiter, f"crowd {number}", 0.0)
    assert limiter.enter("new", now=0.0).log_in is not None
    assert limiter.next(now=0.0) == (None, CROWD_PACE)
    known = limiter.enter("known", now=0.0).log_in
    assert limiter.next(now=0.0) == (known, None)


def test_of_a_crowd_that_waits_the_network_with_the_fewest_wrong_passwords_comes_first() -> None:
    limiter = LogInLimiter()
    crowd = [f"crowd {number}" for number in range(MAX_WAITING)]
    for network in crowd:
        attempt(limiter, network, 0.0)
    waiting = [limiter.enter(network, now=10.0) for network in crowd]
    assert all(entered.log_in for entered in waiting)
    honest = limiter.enter("honest", now=10.0)
    assert honest.log_in is not None
    assert honest.displaced is waiting[-1].log_in, "there was no place left"
    assert limiter.enter("crowd 15", now=10.0) == Entered(None, 5.0), "it displaces nobody"
    assert limiter.next(now=10.0) == (honest.log_in, None)


class _Model:
    """State machine of logging in: its invariants hold whatever strangers do."""

    def __init__(self) -> None:
        self.limiter, self.now = LogInLimiter(), 0.0
        self.waiting: set[LogIn] = set()
        self.checked: LogIn | None = None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["enter", "enter", "next", "right", "wrong", "gone"]), st.integers(0, 40), st.floats(0, 30)
        ),
        max_size=200,
    )
)
def test_one_check_at_a_time_bounded_waiting_and_no_log_in_is_lost(steps: list[tuple[str, int, float]]) -> None:
    model = _Model()
    limiter = model.limiter
    for what, number, passed in steps:
        model.now += passed
        if what == "enter":
            entered = limiter.enter(f"network {number}", now=model.now)
            if entered.displaced is not None:
                model.waiting.remove(entered.displaced)
            if entered.log_in is not None:
                assert entered.log_in.network not in {one.network for one in model.waiting}
                model.waiting.add(entered.log_in)
            else:
                assert entered.retry_after > 0
        elif what == "next":
            found, wait = limiter.next(now=model.now)
            if found is not None:
                assert model.checked is None
                model.waiting.remove(found)
                model.checked = found
            else:
                assert (wait is None) == (model.checked is not None or not model.waiting)
                assert wait is None or 0 < wait <= CROWD_PACE
        elif model.checked is not None:
            limiter.finish(model.checked, {"right": True, "wrong": False, "gone": None}[what], now=model.now)
            model.checked = None
        assert len(model.waiting) <= MAX_WAITING
    while model.waiting or model.checked is not None:
        if model.checked is not None:
            limiter.finish(model.checked, False, now=model.now)
        model.checked, wait = limiter.next(now=model.now)
        if model.checked is not None:
            model.waiting.remove(model.checked)
        model.now += wait or 0.0


def test_networks_that_are_remembered_are_bounded() -> None:
    limiter, now = LogInLimiter(), 0.0
    for number in range(MAX_NETWORKS + 50):
        attempt(limiter, f"network {number}", now)
        now += 2.0
    assert len(limiter) <= MAX_NETWORKS


# Requests of browsers

OWN = "https://ems.local:8480"


@pytest.mark.parametrize(
    ("origin", "site", "ours"),
    [
        (OWN, "same-origin", True),
        (OWN, None, True),
        (None, "same-origin", True),
        (None, None, True),
        ("https://evil.example", None, False),
        ("https://evil.example", "cross-site", False),
        ("null", None, False),
        ("http://ems.local:8480", None, False),
        ("https://ems.local", "same-site", False),
        (OWN, "same-site", False),
        (OWN, "cross-site", False),
        (OWN, "none", False),
        ("", None, False),
    ],
)
def test_what_changes_something_comes_from_a_page_of_ours(origin: str | None, site: str | None, ours: bool) -> None:
    assert is_of_this_page(origin, site, OWN) is ours


@pytest.mark.parametrize(
    ("site", "dest", "allowed"),
    [
        (None, None, True),
        ("same-origin", "empty", True),
        ("none", "document", True),
        ("cross-site", "document", True),
        ("cross-site", "iframe", False),
        ("cross-site", "image", False),
        ("cross-site", "empty", False),
        ("same-site", "script", False),
    ],
)
def test_other_sites_may_link_here_and_load_nothing(site: str | None, dest: str | None, allowed: bool) -> None:
    assert may_read(site, dest) is allowed


def test_a_hash_with_other_parameters_stays_valid() -> None:
    made = PasswordHash.of("correct horse", SALT)
    assert not replace(made, n=32).matches("correct horse")
    assert PasswordHash.from_json(made.to_json()).matches("correct horse")
