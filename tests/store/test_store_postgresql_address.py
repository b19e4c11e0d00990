"""URLs of databases, and what a text of ours may say of them."""

from __future__ import annotations

import pytest

from s2connect.errors import ConfigurationError, UsageError
from s2connect.store.postgresql.address import (
    STORE_VARIABLE,
    check_url,
    given_url,
    has_password,
    shown,
    without_password,
)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("postgresql://u:hun/ter2@127.0.0.1/db", "@ where none can be"),
        ("postgresql://u:hun@ter2@127.0.0.1/db", "@ where none can be"),
        ("postgresql://u:hun?ter2@127.0.0.1/db", "names no database"),
        ("postgresql://u:hun#ter2@127.0.0.1/db", "no URL"),
        ("postgresql://u:hunter2@[::1/db", "no URL"),
        ("postgresql://u:hunter2@127.0.0.1", "names no database"),
        ("postgresql://u:hunter2@127.0.0.1:port/db", "no number"),
        ("postgresql://u:hunter2@a:5432,b:99999/db", "no number"),
        ("postgresql://u:hunter2@[::1]:0/db", "no number"),
    ],
)
def test_a_url_that_cannot_be_right_is_refused_without_showing_what_may_be_its_password(url: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as refused:
        check_url(url)
    text = f"{refused.value!r} {refused.value}"
    assert "%40" in text, "how it is written"
    assert not any(part in text for part in ("hun", "ter2"))


def test_a_password_is_taken_from_the_environment_and_not_from_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = "postgresql://u:hunter2@a/db"
    monkeypatch.delenv(STORE_VARIABLE, raising=False)
    with pytest.raises(UsageError, match="every user") as refused:
        given_url(kept)
    assert "hunter2" not in f"{refused.value!r} {refused.value}"
    assert given_url("postgresql://u@a/db") == "postgresql://u@a/db"
    monkeypatch.setenv(STORE_VARIABLE, kept)
    assert given_url("postgresql://u@a/db") == kept
    assert given_url("postgresql://u@b/db") == "postgresql://u@b/db", "that of another database"


@pytest.mark.parametrize(
    ("url", "without"),
    [
        ("postgresql://u:hunter2@a:5432,[::1]:5433/db", "postgresql://u@a:5432,[::1]:5433/db"),
        ("postgresql://u:hun%2Fter2%40@a/db", "postgresql://u@a/db"),
        ("postgresql:///db?host=/run&password=hunter2", "postgresql:///db?host=/run"),
        ("postgresql://a/db?pass%77ord=hunter2", "postgresql://a/db"),
        ("postgresql://a/db?sslmode=require", "postgresql://a/db?sslmode=require"),
    ],
)
def test_a_url_without_its_password_is_the_same_database(url: str, without: str) -> None:
    assert without_password(check_url(url)) == check_url(without)
    assert not has_password(without)
    assert "ter2" not in shown(url)
