"""Providers in the console: operators add them, their keys go in and never come out."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from governance.models import AuditEntry
from llm.models import ProviderEndpoint
from llm.providers import endpoints
from tests import confirmed, factories
from tests.fakes.openai_api import OpenAI
from tests.servers import served

LIST = "/admin/llm/providerendpoint/"
KEY = "sk-very-secret"

pytestmark = pytest.mark.django_db


def signed_in(**rights: Any) -> Client:
    client = Client()
    client.force_login(User.objects.create_user("someone", **rights))
    return client


@pytest.fixture
def operator() -> Client:
    return signed_in(is_staff=True, is_superuser=True)


@pytest.fixture
def own(settings: Any) -> Iterator[str]:
    """A server that speaks OpenAI's dialect, and nothing else to call."""
    settings.MISTRAL_API_BASE = "https://api.mistral.ai"
    with served(OpenAI(key=KEY)) as url:
        yield f"{url}/v1"


def form(**fields: Any) -> dict[str, Any]:
    return {
        "name": "groq",
        "kind": "openai_compatible",
        "base_url": "https://api.groq.com/openai/v1/",
        "enabled": "on",
        "key_env": "",
        "new_key": KEY,
        **fields,
    }


def page(client: Client, path: str) -> str:
    response = client.get(path)
    assert response.status_code == 200
    return response.content.decode()


def test_a_provider_is_added_and_its_key_is_never_shown(operator: Client, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    assert operator.post(LIST + "add/", form()).status_code == 302
    row = ProviderEndpoint.objects.get()
    assert row.base_url == "https://api.groq.com/openai/v1"
    assert endpoints.usable()[0].api_key == KEY
    entry = AuditEntry.objects.get(action="provider.add")
    pages = [page(operator, path) for path in (LIST, f"{LIST}{row.pk}/change/", f"{LIST}{row.pk}/history/")]
    pages.append(page(operator, f"/admin/governance/auditentry/{entry.pk}/change/"))
    for text in [*pages, caplog.text, str(entry.new)]:
        assert KEY not in text
        assert row.sealed_key not in text


def test_saving_without_a_key_keeps_the_one_that_is_there(operator: Client) -> None:
    operator.post(LIST + "add/", form())
    row = ProviderEndpoint.objects.get()
    saved = operator.post(f"{LIST}{row.pk}/change/", form(new_key="", enabled=""))
    assert saved.status_code == 302
    row.refresh_from_db()
    assert (row.enabled, bool(row.sealed_key)) == (False, True)


def test_saving_what_is_so_already_is_no_act_and_a_new_key_is_one(operator: Client) -> None:
    operator.post(LIST + "add/", form())
    row = ProviderEndpoint.objects.get()
    for new_key, acts in (("", 0), ("gsk_another", 1)):
        assert operator.post(f"{LIST}{row.pk}/change/", form(new_key=new_key)).status_code == 302
        assert AuditEntry.objects.filter(action="provider.change").count() == acts
    assert endpoints.usable()[0].api_key == "gsk_another"


def test_a_new_address_needs_the_key_again(operator: Client) -> None:
    operator.post(LIST + "add/", form())
    row = ProviderEndpoint.objects.get()
    answer = operator.post(f"{LIST}{row.pk}/change/", form(new_key="", base_url="https://evil.example/v1"))
    assert answer.status_code == 200
    assert "Enter the key again" in answer.content.decode()
    row.refresh_from_db()
    assert row.base_url == "https://api.groq.com/openai/v1"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"name": "mistral-eu"}, "configured by the environment"),
        ({"name": "Groq Cloud"}, "small letters"),
        ({"base_url": "http://10.0.0.1/v1"}, "private network"),
        ({"base_url": "https://u:p@example.com"}, "no user, password"),
        ({"new_key": "a b"}, "key alone"),
        ({"new_key": "", "key_env": "SECRET_KEY"}, "_API_KEY"),
        ({"key_env": "GROQ_API_KEY"}, "not both"),
        ({"new_key": "", "kind": "openai"}, "no calls without a key"),
    ],
)
def test_mistakes_are_named(operator: Client, settings: Any, fields: dict[str, str], sentence: str) -> None:
    settings.PRIVATE_ENDPOINTS = False
    answer = operator.post(LIST + "add/", form(**fields))
    assert answer.status_code == 200
    assert sentence in answer.content.decode()
    assert not ProviderEndpoint.objects.exists()


def test_owners_alone_say_where_a_key_of_the_environment_goes(
    operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGSMITH_API_KEY", "ls-secret")
    olga = Client()
    olga.force_login(factories.person("olga", "operator"))
    taken = {"new_key": "", "key_env": "LANGSMITH_API_KEY"}
    olga.post(LIST + "add/", form(name="mine", base_url="https://evil.example/v1", **taken))
    assert not [each for each in endpoints.usable() if each.api_key]
    ProviderEndpoint.objects.all().delete()
    assert operator.post(LIST + "add/", form(**taken)).status_code == 302
    row = ProviderEndpoint.objects.get()
    changed = form(new_key="", base_url="https://evil.example/v1", enabled="on")
    assert olga.post(f"{LIST}{row.pk}/change/", changed).status_code == 302
    [endpoint] = endpoints.usable()
    assert (endpoint.base_url, endpoint.api_key) == ("https://api.groq.com/openai/v1", "ls-secret")


def test_who_is_no_operator_looks_on(own: str) -> None:
    signed_in(is_staff=True, is_superuser=True).post(LIST + "add/", form(base_url=own))
    row = ProviderEndpoint.objects.get()
    User.objects.all().delete()
    viewer = Client()
    viewer.force_login(factories.person("vera", "viewer"))
    assert "groq" in page(viewer, LIST)
    assert "new_key" not in page(viewer, f"{LIST}{row.pk}/change/")
    assert viewer.post(f"{LIST}{row.pk}/change/", form(enabled="")).status_code == 403
    for path in (f"{LIST}{row.pk}/try/", f"{LIST}try/"):
        assert viewer.get(path).status_code == viewer.post(path).status_code == 403
    assert viewer.post(LIST + "add/", form(name="other")).status_code == 403
    stranger = Client()
    assert stranger.get(LIST).status_code == 302


def test_a_connection_is_tried_out(operator: Client, own: str) -> None:
    operator.post(LIST + "add/", form(base_url=own))
    row = ProviderEndpoint.objects.get()
    answer = confirmed.press(operator, f"{LIST}{row.pk}/try/")
    assert "groq: It works: 1 models." in answer.content.decode()
    answer = confirmed.press(operator, f"{LIST}try/")
    assert "groq: It works" in answer.content.decode()


def test_a_key_that_is_refused_is_told_without_it(operator: Client, own: str) -> None:
    operator.post(LIST + "add/", form(base_url=own, new_key="sk-wrong-secret"))
    answer = confirmed.press(operator, f"{LIST}try/").content.decode()
    assert "groq: It answered with status 401." in answer
    assert "sk-wrong-secret" not in answer


def test_one_that_is_switched_off_is_not_tried(operator: Client, own: str) -> None:
    operator.post(LIST + "add/", form(base_url=own, enabled=""))
    row = ProviderEndpoint.objects.get()
    assert "switched off" in confirmed.press(operator, f"{LIST}{row.pk}/try/").content.decode()


def test_the_environments_providers_stand_in_the_list_and_are_tested_there(operator: Client, settings: Any) -> None:
    settings.OPENAI_API_KEY, settings.ANTHROPIC_API_KEY = KEY, ""
    with served(OpenAI(key=KEY)) as url:
        settings.OPENAI_API_BASE = f"{url}/v1"
        rows = {row.name: row for row in operator.get(LIST).context["providers"]}
        assert (rows["openai"].state, rows["openai"].key) == ("configured", "OPENAI_API_KEY")
        assert (rows["anthropic"].state, rows["anthropic"].test) == ("no key", "")
        told = confirmed.press(operator, rows["openai"].test).content.decode()
        assert "openai: It works: " in told
        settings.OPENAI_API_KEY = "another"
        told = confirmed.press(operator, rows["openai"].test).content.decode()
    assert "status 401" in told
    assert KEY not in told
    assert operator.get(rows["openai"].test).status_code == 200
    assert "has no key" in confirmed.press(operator, f"{LIST}environment/anthropic/try/").content.decode()
    assert operator.post(f"{LIST}environment/groq/try/").status_code == 404
    viewer = Client()
    viewer.force_login(factories.person("vera", "viewer"))
    assert viewer.post(rows["openai"].test).status_code == 403
    assert "formaction" not in page(viewer, LIST)


def test_what_keeps_a_provider_from_being_called_is_said(operator: Client, settings: Any) -> None:
    settings.PRIVATE_ENDPOINTS = True
    operator.post(LIST + "add/", form(base_url="http://10.0.0.1/v1"))
    operator.post(LIST + "add/", form(name="away", enabled=""))
    settings.PRIVATE_ENDPOINTS = False
    rows = {row.name: row for row in operator.get(LIST).context["providers"]}
    assert (rows["groq"].state, rows["away"].state, rows["away"].test) == ("unusable", "switched off", "")
    assert "private network" in rows["groq"].note
