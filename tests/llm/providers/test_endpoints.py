"""Providers that operators add: their keys are sealed, and told to nobody."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from django.db import IntegrityError, transaction

from governance import alerts
from governance.audit import Actor
from governance.models import AuditEntry
from llm.models import ProviderEndpoint
from llm.providers import endpoints
from tests.factories import NOON

BY = Actor(name="ops")
KEY = "sk-very-secret"

pytestmark = pytest.mark.django_db


def saved(new_key: str = KEY, **fields: Any) -> ProviderEndpoint:
    row = ProviderEndpoint(**({"name": "groq", "base_url": "https://api.groq.com/openai/v1"} | fields))
    return endpoints.save(row=row, new_key=new_key, by=BY, now=NOON)


def test_a_key_goes_in_sealed_and_comes_out_for_calls_alone() -> None:
    row = saved()
    assert KEY not in row.sealed_key
    [usable] = endpoints.usable()
    assert (usable.name, usable.kind, usable.api_key) == ("groq", "openai_compatible", KEY)
    assert KEY not in repr(usable) + repr(row) + str(row)


def test_the_audit_trail_tells_of_keys_and_not_them() -> None:
    row = saved()
    row.enabled = False
    endpoints.save(row=row, new_key="sk-another-secret", by=BY, now=NOON)
    added, changed = AuditEntry.objects.order_by("pk")
    assert (added.action, added.target, added.new["key"]) == ("provider.add", "groq", "set")
    assert (changed.action, changed.old["enabled"], changed.new["enabled"]) == ("provider.change", True, False)
    assert changed.new["key"] == "replaced"
    told = str([(entry.old, entry.new) for entry in (added, changed)])
    assert "secret" not in told
    assert row.sealed_key not in told


def test_without_a_new_key_the_old_one_stays() -> None:
    row = ProviderEndpoint.objects.get(pk=saved().pk)
    row.enabled = True
    endpoints.save(row=row, new_key="", by=BY, now=NOON)
    assert endpoints.usable()[0].api_key == KEY


def test_a_key_is_not_sent_to_another_address_than_it_was_entered_for() -> None:
    row = saved()
    row.base_url = "https://evil.example/v1"
    with pytest.raises(endpoints.KeyNeeded):
        endpoints.save(row=row, new_key="", by=BY, now=NOON)
    assert endpoints.usable()[0].base_url == "https://api.groq.com/openai/v1"
    endpoints.save(row=row, new_key="sk-2", by=BY, now=NOON)
    assert endpoints.usable()[0].api_key == "sk-2"


def open_alerts() -> list[tuple[str, str, int]]:
    return list(alerts.open_ones().values_list("subject", "severity", "count"))


def test_a_key_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    saved(new_key="", key_env="GROQ_API_KEY")
    assert endpoints.usable() == ()
    monkeypatch.setenv("GROQ_API_KEY", KEY)
    assert endpoints.usable()[0].api_key == KEY


def test_a_key_from_a_variable_that_is_given_as_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    saved(new_key="", key_env="GROQ_API_KEY")
    monkeypatch.setenv("GROQ_API_KEY_FILE", str(tmp_path / "key"))
    assert endpoints.usable() == ()
    (tmp_path / "key").write_text(f"{KEY}\n")
    assert endpoints.usable()[0].api_key == KEY


def test_a_variable_takes_the_place_of_a_key() -> None:
    row = saved()
    row.key_env = "GROQ_API_KEY"
    assert endpoints.save(row=row, new_key="", by=BY, now=NOON).sealed_key == ""


def test_a_server_of_ones_own_may_need_no_key_others_do() -> None:
    saved(new_key="")
    assert endpoints.usable()[0].api_key == ""
    with pytest.raises(endpoints.KeyNeeded):
        saved(new_key="", name="second", kind="anthropic")


def test_operators_are_told_once_of_a_key_that_cannot_be_read_and_when_it_can_again(
    settings: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    saved()
    watch, old = endpoints.Watch(), settings.SECRET_KEY
    assert len(watch.read(now=NOON)) == 1
    settings.SECRET_KEY = "another-" * 10
    for _ in range(3):
        assert watch.read(now=NOON) == ()
    assert open_alerts() == [("groq", "critical", 1)]
    assert caplog.text.count("enter it again") == 1
    assert KEY not in caplog.text
    settings.SECRET_KEY_FALLBACKS = [old]
    assert watch.read(now=NOON)[0].api_key == KEY
    assert open_alerts() == []


def test_an_alert_from_before_a_restart_ends_with_its_cause(settings: Any) -> None:
    saved()
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another-" * 10
    endpoints.Watch().read(now=NOON)
    settings.SECRET_KEY = old
    endpoints.Watch().read(now=NOON)
    assert open_alerts() == []


def test_an_address_that_is_no_longer_allowed_is_not_called(settings: Any) -> None:
    saved(base_url="http://10.0.0.1/v1")
    assert len(endpoints.usable()) == 1
    settings.PRIVATE_ENDPOINTS = False
    assert endpoints.Watch().read(now=NOON) == ()
    assert open_alerts() == [("groq", "critical", 1)]


def test_one_that_is_switched_off_is_not_called() -> None:
    saved(enabled=False)
    assert endpoints.usable() == ()


@pytest.mark.parametrize(
    "fields", [{"name": "mistral-eu"}, {"name": ""}, {"kind": "other"}, {"key_env": "A_API_KEY", "sealed_key": "x"}]
)
def test_the_database_holds_the_rules(fields: dict[str, str]) -> None:
    row = {"name": "groq", "base_url": "https://example.com", "updated_at": NOON} | fields
    with pytest.raises(IntegrityError), transaction.atomic():
        ProviderEndpoint.objects.create(**row)
