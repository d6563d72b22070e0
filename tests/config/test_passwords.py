"""Hashing passwords takes little of what all share, however many strangers ask for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from django.contrib.auth.hashers import check_password, identify_hasher, make_password
from django.contrib.auth.models import User
from django.db import connection
from django.test import Client

from config import passwords
from config.passwords import Addresses, HashingLine, TooMany
from tests import factories as make

LOGIN = "/admin/login/"


@pytest.fixture
def started() -> threading.Event:
    return threading.Event()


@pytest.fixture
def free() -> Iterator[threading.Event]:
    free = threading.Event()
    yield free
    free.set()


@pytest.fixture
def slow(started: threading.Event, free: threading.Event, monkeypatch: pytest.MonkeyPatch) -> HashingLine:
    """A line in which the first password takes until `free` is set."""
    line = HashingLine(most=2, patience_s=5)
    monkeypatch.setattr(passwords, "line", line)

    def stand() -> str:
        started.set()
        free.wait(10)
        return ""

    threading.Thread(target=line.hashed, args=[stand]).start()
    assert started.wait(5)
    return line


def test_passwords_are_djangos_own_and_older_ones_go_on() -> None:
    kept = make_password("seventeen-llamas")
    assert kept.startswith("pbkdf2_sha256$")
    assert isinstance(identify_hasher(kept), passwords.Hasher)
    assert check_password("seventeen-llamas", kept)
    assert not check_password("sixteen-llamas", kept)


def test_one_is_hashed_at_a_time_and_a_few_wait(slow: HashingLine, free: threading.Event) -> None:
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(slow.hashed, lambda: "second")
        while slow._inside < 2:
            pass
        with pytest.raises(TooMany):
            slow.hashed(lambda: "third")
        assert not waiting.done()
        free.set()
        assert waiting.result(5) == "second"
    assert slow.hashed(lambda: "fourth") == "fourth"


def test_strangers_leave_places_to_who_is_known(slow: HashingLine, free: threading.Event) -> None:
    line = HashingLine(most=3, kept=1)
    line._thread = slow._thread
    with ThreadPoolExecutor(4) as threads:
        waiting = [threads.submit(line.hashed, lambda: "stranger", of_stranger=True) for _ in range(2)]
        while line._strangers < 2:
            pass
        with pytest.raises(TooMany):
            line.hashed(lambda: "stranger", of_stranger=True)
        waiting.append(threads.submit(line.hashed, lambda: "known"))
        while line._inside < 3:
            pass
        with pytest.raises(TooMany):
            line.hashed(lambda: "known")
        free.set()
        assert [one.result(5) for one in waiting] == ["stranger", "stranger", "known"]


def test_nobody_waits_without_end_and_what_was_given_up_is_not_hashed(started: threading.Event) -> None:
    line, free, hashed = HashingLine(most=2, patience_s=0.05), threading.Event(), []

    def stand() -> str:
        started.set()
        free.wait(10)
        return ""

    def ask() -> None:
        with suppress(TooMany):
            line.hashed(stand)

    first = threading.Thread(target=ask)
    first.start()
    assert started.wait(5)
    with pytest.raises(TooMany):
        line.hashed(lambda: hashed.append(1) or "")  # type: ignore[func-returns-value]
    free.set()
    first.join()
    assert line.hashed(lambda: "next") == "next"
    assert hashed == []


@pytest.mark.skipif("sys.platform != 'linux'")
def test_it_is_done_behind_everything_else() -> None:
    before = os.nice(0)
    assert int(HashingLine().hashed(lambda: str(os.nice(0)))) == min(19, before + passwords.NICENESS)
    assert os.nice(0) == before


@pytest.mark.django_db(transaction=True)
def test_who_waits_for_it_holds_no_connection() -> None:
    assert not User.objects.filter(username="olga").exists()
    assert connection.connection is not None
    assert HashingLine().hashed(lambda: "hashed") == "hashed"
    assert connection.connection is None


@pytest.mark.django_db
def test_within_a_transaction_nobody_waits_for_it(slow: HashingLine, free: threading.Event) -> None:
    began = time.monotonic()
    with pytest.raises(TooMany):
        slow.hashed(lambda: "second")
    assert time.monotonic() - began < 2
    free.set()
    deadline = time.monotonic() + 5
    while slow._inside and time.monotonic() < deadline:
        time.sleep(0.01)
    assert slow.hashed(lambda: "third") == "third"


def test_an_address_has_two_places_and_others_have_theirs() -> None:
    addresses = Addresses()
    with addresses.place("192.0.2.1"), addresses.place("192.0.2.1"):
        with pytest.raises(TooMany), addresses.place("192.0.2.1"):
            pass
        with addresses.place("192.0.2.2"):
            pass
    with addresses.place("192.0.2.1"):
        pass
    assert not addresses._entered


@pytest.mark.django_db
def test_a_sign_in_beyond_that_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = {"username": "olga", "password": "seventeen-llamas"}
    addresses = Addresses()
    monkeypatch.setattr(passwords, "addresses", addresses)
    with addresses.place("192.0.2.1"), addresses.place("192.0.2.1"):
        refused = Client().post(LOGIN, tried, REMOTE_ADDR="192.0.2.1")
        other = Client().post(LOGIN, tried, REMOTE_ADDR="192.0.2.2")
    assert (refused.status_code, refused["Retry-After"]) == (429, str(passwords.AGAIN_S))
    assert b"Try again in 5 seconds" in refused.content
    assert other.status_code == 200


@pytest.mark.django_db
def test_who_signed_in_from_an_address_before_is_no_stranger_there(monkeypatch: pytest.MonkeyPatch) -> None:
    make.person("olga", "operator", password="seventeen-llamas")
    tried, strangers, hashed = {"username": "olga", "password": "seventeen-llamas"}, [], HashingLine.hashed

    def noted(line: HashingLine, do: Callable[[], str], *, of_stranger: bool = False) -> str:
        strangers.append(of_stranger)
        return hashed(line, do, of_stranger=of_stranger)

    monkeypatch.setattr(HashingLine, "hashed", noted)
    monkeypatch.setattr(passwords, "addresses", Addresses())

    def sign_in(address: str) -> int:
        return int(Client().post(LOGIN, tried, REMOTE_ADDR=address).status_code)

    assert sign_in("2001:db8:1:1::7") == 302
    # Whoever has a network of version 6 has as many of the smaller ones as there are.
    with passwords.addresses.place("2001:db8:1::"), passwords.addresses.place("2001:db8:1::"):
        assert [sign_in(f"2001:db8:{site}::7") for site in ("1:1", "1:2", "2:1")] == [302, 429, 302]
    assert strangers == [True, False, True]
    make_password("seventeen-llamas")
    assert strangers[3:] == [False]
