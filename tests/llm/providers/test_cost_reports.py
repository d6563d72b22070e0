"""Asking providers for their costs over real sockets: friendly ones, and ones that answer as nobody should."""

from __future__ import annotations

import gzip
import logging
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from governance.rules.judgement import CostReport, Silence
from llm.models import ProviderEndpoint
from llm.providers import cost_reports
from tests.fakes.cost_reports_api import CostReports
from tests.servers import served

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 10, 13, 0, tzinfo=UTC)
DAY, TODAY = date(2026, 3, 9), date(2026, 3, 10)
ACCOUNTS = ("openai", "anthropic", "openrouter")


@pytest.fixture
def fake() -> CostReports:
    return CostReports(days={DAY: "1.25"})


@pytest.fixture
def asked(fake: CostReports, settings: Any) -> Iterator[str]:
    """All accounts report at the fake."""
    with served(fake) as url:
        settings.OPENAI_API_BASE, settings.ANTHROPIC_API_BASE = f"{url}/v1", url
        settings.OPENROUTER_API_BASE = f"{url}/v1/"
        for name in ACCOUNTS:
            setattr(settings, f"{name.upper()}_ADMIN_KEY", fake.key)
        yield url


def read(since: date = DAY, until: date = TODAY) -> dict[str, CostReport]:
    return {report.account: report for report in cost_reports.read(since=since, until=until, now=NOW)}


def silences(reports: dict[str, CostReport]) -> set[Silence | None]:
    return {reports[name].silence for name in ACCOUNTS}


def endpoint(name: str, base_url: str, **fields: Any) -> None:
    ProviderEndpoint.objects.create(name=name, base_url=base_url, updated_at=timezone.now(), **fields)


def test_each_provider_is_read_as_it_documents(fake: CostReports, asked: str) -> None:
    found = read()
    assert found["openai"].days == found["anthropic"].days == {DAY: 1_250_000_000}
    assert found["openrouter"].days[DAY] == 1_250_000_000
    assert silences(found) == {None}
    assert {path for path, _ in fake.seen} == {
        "/v1/organization/costs",
        "/v1/organizations/cost_report",
        "/v1/activity",
    }


def test_without_keys_nobody_is_asked(fake: CostReports, asked: str, settings: Any) -> None:
    for name in ACCOUNTS:
        setattr(settings, f"{name.upper()}_ADMIN_KEY", "")
    assert silences(read()) == {Silence.NO_ADMIN_KEY}
    assert fake.seen == []


def test_mistral_reports_no_days(asked: str) -> None:
    mistral = read()["mistral"]
    assert mistral.silence is Silence.NO_DAILY_REPORT
    assert mistral.providers == {"mistral", "mistral-eu", "mistral-us"}


def test_days_that_are_not_over_are_not_asked_for(fake: CostReports, asked: str) -> None:
    assert read(since=TODAY, until=TODAY + timedelta(days=5))["openai"] == CostReport("openai", frozenset({"openai"}))
    assert fake.seen == []
    found = read(until=TODAY + timedelta(days=5))
    assert found["openai"].days == found["anthropic"].days == {DAY: 1_250_000_000}


def test_all_pages_are_read(fake: CostReports, asked: str) -> None:
    fake.days_a_page = 2
    fake.days = {DAY - timedelta(days=n): "0.1" for n in range(7)}
    found = read(since=DAY - timedelta(days=6))
    assert found["openai"].days == found["anthropic"].days == dict.fromkeys(fake.days, 100_000_000)
    assert len(fake.seen) == 4 + 4 + 1


def test_an_account_is_billed_for_all_endpoints_at_its_address(asked: str) -> None:
    endpoint("openai-batch", f"{asked}/v1/", kind="openai", key_env="A_API_KEY")
    endpoint("anthropic", "https://claude.example.com", kind="anthropic", enabled=False, key_env="B_API_KEY")
    endpoint("groq", "https://api.groq.com/openai/v1")
    found = read()
    # Here all three are at one address. What the database calls anthropic is elsewhere, so the report is not about it.
    assert found["openai"].providers == {"openai", "openai-batch"}
    assert found["anthropic"].providers == {"openai-batch"}
    assert found["openrouter"].providers == {"openrouter", "openai-batch"}


@pytest.mark.parametrize(
    ("status", "body", "silence"),
    [
        (401, b"no such key", Silence.REFUSED),
        (403, b"", Silence.REFUSED),
        (404, b"{}", Silence.REFUSED),
        (302, b"", Silence.REFUSED),
        (204, b"", Silence.REFUSED),
        (429, b"", Silence.UNREACHABLE),
        (500, b"oh", Silence.UNREACHABLE),
        (503, b"<html>", Silence.UNREACHABLE),
        (200, b"<html>login</html>", Silence.UNREADABLE),
        (200, b"", Silence.UNREADABLE),
        (200, b'{"data": [{"results": []}], "has_more": false}', Silence.UNREADABLE),
    ],
)
def test_an_odd_answer_is_named_and_crashes_nothing(
    fake: CostReports, asked: str, status: int, body: bytes, silence: Silence
) -> None:
    fake.said.extend([(status, body)] * 3)
    found = read()
    assert silences(found) == {silence}
    assert all(found[name].days == {} for name in ACCOUNTS)
    if status != 200:
        assert found["openai"].detail == f"It answered with status {status}."


@pytest.mark.parametrize("amount", ["-0.01", "1e12", "nan", "inf"])
def test_an_amount_that_cannot_be_is_unreadable(fake: CostReports, asked: str, amount: str) -> None:
    fake.days[DAY] = amount
    assert silences(read()) == {Silence.UNREADABLE}


def test_another_currency_cannot_be_judged(fake: CostReports, asked: str) -> None:
    fake.currency = "eur"
    found = read()
    assert found["openai"].silence is found["anthropic"].silence is Silence.OTHER_CURRENCY


def test_pages_without_end_end(fake: CostReports, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_reports, "MOST_PAGES", 3)
    fake.said.extend([(200, b'{"data": [], "has_more": true, "next_page": "again"}')] * 100)
    found = read()
    assert found["openai"].silence is found["anthropic"].silence is Silence.UNREADABLE
    assert found["openai"].detail == "What is wrong with it: its pages do not end."
    assert len(fake.seen) == 3 + 3 + 1


def test_a_page_that_comes_again_is_not_counted_twice(fake: CostReports, asked: str, settings: Any) -> None:
    settings.ANTHROPIC_ADMIN_KEY = settings.OPENROUTER_ADMIN_KEY = ""
    query = {"bucket_width": "1d", "limit": "31"}
    once = fake.page(query, DAY, TODAY, fake.openai).replace(b"false", b"true").replace(b"null", b'"again"')
    fake.said.extend([(200, once)] * 100)
    assert read()["openai"].silence is Silence.UNREADABLE
    assert len(fake.seen) == 2


@pytest.mark.parametrize("slow", [{"pause_s": 3.0}, {"trickle_s": 0.2}])
def test_one_that_is_slow_is_not_waited_for(
    fake: CostReports, asked: str, slow: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_reports, "DEADLINE_S", 0.5)
    for name, value in slow.items():
        setattr(fake, name, value)
    began = time.monotonic()
    assert silences(read()) == {Silence.UNREACHABLE}
    assert time.monotonic() - began < 2.5


def test_many_quick_pages_share_one_deadline(
    fake: CostReports, asked: str, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.ANTHROPIC_ADMIN_KEY = settings.OPENROUTER_ADMIN_KEY = ""
    monkeypatch.setattr(cost_reports, "DEADLINE_S", 0.5)
    fake.pause_s = 0.2
    fake.said.extend([(200, b'{"data": [], "has_more": true, "next_page": "again"}')] * 100)
    assert read()["openai"].silence is Silence.UNREACHABLE
    assert len(fake.seen) < 5


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_without_end_is_let_go(
    fake: CostReports, asked: str, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost_reports, "MOST_BYTES", 100_000)
    body = b" " * 5_000_000
    if packed:
        fake.headers = {"content-encoding": "gzip"}
        body = gzip.compress(body)
    fake.said.extend([(200, body)] * 3)
    assert silences(read()) == {Silence.UNREACHABLE}


def test_what_is_not_the_compression_it_says_is_no_crash(fake: CostReports, asked: str) -> None:
    fake.headers = {"content-encoding": "gzip"}
    fake.said.extend([(200, b"not packed")] * 3)
    assert silences(read()) == {Silence.UNREACHABLE}


def test_a_place_where_nobody_listens(settings: Any) -> None:
    settings.OPENAI_ADMIN_KEY, settings.OPENAI_API_BASE = "sk-admin", "http://127.0.0.1:1/v1"
    assert read()["openai"].silence is Silence.UNREACHABLE


def test_what_nobody_thought_of_is_unreadable_and_keeps_its_words_to_itself(
    asked: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def odd(*args: Any, **kwargs: Any) -> Any:
        raise ZeroDivisionError("sk-admin-secret")

    monkeypatch.setattr(cost_reports.Connection, "get", odd)
    assert silences(read()) == {Silence.UNREADABLE}
    assert "the cost report of openai set off a ZeroDivisionError" in caplog.text
    assert "sk-admin-secret" not in caplog.text


def test_a_key_is_shown_to_nobody_but_its_provider(
    fake: CostReports, asked: str, settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings.OPENAI_ADMIN_KEY = "sk-admin-wrong"
    # The fake repeats the key in its refusal, as OpenAI does in part.
    found = read()["openai"]
    assert (found.silence, found.detail) == (Silence.REFUSED, "It answered with status 401.")
    assert "sk-admin" not in caplog.text + str(found) + str(cost_reports._accounts())


def test_a_key_is_not_taken_elsewhere_by_a_redirect(fake: CostReports, asked: str) -> None:
    other = CostReports()
    with served(other) as url:
        fake.headers = {"location": f"{url}/v1/organization/costs"}
        fake.said.extend([(307, b"")] * 3)
        assert silences(read()) == {Silence.REFUSED}
    assert other.seen == []
