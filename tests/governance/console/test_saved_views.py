"""Saved views of the list of budgets: kept, shown, renamed and deleted, by their user alone."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import IntegrityError
from django.test import Client

from governance.actions import saved_views
from governance.models import SavedView
from tests import factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db

LIST = "/admin/governance/budget/"
VIEWS = f"{LIST}views/"
HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture
def olga() -> Client:
    return signed_in("olga", "operator")


def saved(client: Client, name: str = "Stopped", query: str = "state=stopped") -> SavedView:
    client.post(VIEWS, {"name": name, "query": query})
    return SavedView.objects.get(name=name)


def told(answer: Any) -> list[str]:
    return [str(message) for message in answer.context["messages"]]


def test_a_view_is_saved_and_stands_beside_the_tabs_as_the_one_that_is_shown(olga: Client) -> None:
    answer = olga.post(VIEWS, {"name": " Stopped  days ", "query": "state=stopped&p=3&window=day&q="})
    assert answer["Location"] == f"{LIST}?state=stopped&window=day"
    view = SavedView.objects.get()
    assert (view.name, view.query) == ("Stopped days", "state=stopped&window=day")

    # Whatever the order in which it was chosen, and whichever of its pages.
    shown = olga.get(f"{LIST}?window=day&state=stopped&p=2").context["saved"]
    assert (shown.views, shown.current) == ([view], view)
    page = olga.get(LIST).content.decode()
    assert '<a href="?state=stopped&amp;window=day" title="Stopped days" ><bdi>Stopped days</bdi></a>' in page
    assert "Save view" not in page


def test_a_view_of_the_same_name_is_replaced(olga: Client) -> None:
    saved(olga)
    olga.post(VIEWS, {"name": "Stopped", "query": "state=stopped&window=day"})
    assert SavedView.objects.get().query == "state=stopped&window=day"


def test_a_view_is_renamed_and_deleted_where_it_is_shown(olga: Client) -> None:
    view = saved(olga)
    page = olga.get(f"{LIST}?state=stopped").content.decode()
    assert f'action="{VIEWS}{view.pk}/"' in page
    answer = olga.post(f"{VIEWS}{view.pk}/", {"name": "Used up"})
    assert answer["Location"] == f"{LIST}?state=stopped"
    assert SavedView.objects.get().name == "Used up"

    answer = olga.post(f"{VIEWS}{view.pk}/", {"name": "", "act": "delete"}, follow=True)
    assert told(answer) == ["The view “Used up” is deleted."]
    assert not SavedView.objects.exists()


@pytest.mark.parametrize(
    ("name", "query", "said"),
    [
        ("", "state=stopped", "The name is missing."),
        (" ", "state=stopped", "The name is missing."),
        ("x" * 61, "state=stopped", "The name may have at most 60 characters."),
        ("\u202etxt", "state=stopped", "The name may not have control characters"),
        ("All", "p=2&q=&_popup=1", "The query is the whole list, which needs no view."),
        ("Long", "q=" + "x" * 1000, "The query may have at most 1,000 characters."),
    ],
)
def test_what_cannot_be_a_view_is_refused_in_a_sentence(olga: Client, name: str, query: str, said: str) -> None:
    answer = olga.post(VIEWS, {"name": name, "query": query}, follow=True)
    [sentence] = told(answer)
    assert sentence.startswith(said)
    assert not SavedView.objects.exists()


def test_there_are_so_many_views_and_no_more(olga: Client) -> None:
    for number in range(saved_views.MOST_VIEWS):
        saved(olga, f"view {number}")
    answer = olga.post(VIEWS, {"name": "one more", "query": "state=stopped"}, follow=True)
    assert told(answer) == ["The view is one too many: you have 20 already. Delete one that you do not need."]
    olga.post(VIEWS, {"name": "view 7", "query": "state=warned"})
    assert SavedView.objects.get(name="view 7").query == "state=warned"


def test_a_view_takes_no_other_views_name(olga: Client) -> None:
    saved(olga, "Warned", "state=warned")
    view = saved(olga)
    answer = olga.post(f"{VIEWS}{view.pk}/", {"name": "Warned", "query": "state=stopped"}, follow=True)
    assert told(answer) == ["The name is another view's already."]
    assert answer.redirect_chain == [(f"{LIST}?state=stopped", 302)]
    view.refresh_from_db()
    assert view.name == "Stopped"


def test_hostile_names_and_queries_are_text(olga: Client) -> None:
    saved(olga, HOSTILE, f"q={HOSTILE}&state=//evil.example")
    page = olga.get(LIST).content.decode()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert 'href="?' in page
    # It stays within the list, whatever it says.
    assert 'href="//' not in page


def test_anothers_views_are_not_there(olga: Client) -> None:
    view = saved(olga)
    other = signed_in("oscar", "owner")
    assert "Stopped</bdi>" not in other.get(LIST).content.decode()
    for act in ({"name": "mine"}, {"act": "delete"}):
        assert other.post(f"{VIEWS}{view.pk}/", act).status_code == 404
    assert saved_views.save(user=factories.person("oscar2"), name="Stopped", query="state=warned").pk != view.pk
    view.refresh_from_db()
    assert (view.name, view.query) == ("Stopped", "state=stopped")


def test_whoever_reads_budgets_may_keep_views_and_nobody_else(olga: Client) -> None:
    assert saved(signed_in("vera", "viewer"), "hers").name == "hers"
    nobody = signed_in("nobody")
    assert nobody.post(VIEWS, {"name": "x", "query": "state=stopped"}).status_code == 403
    stranger = Client().post(VIEWS, {"name": "x", "query": "state=stopped"})
    assert stranger["Location"].startswith("/admin/login/")
    assert SavedView.objects.count() == 1


def test_a_view_is_changed_by_no_link(olga: Client) -> None:
    view = saved(olga)
    assert olga.get(VIEWS, {"name": "x", "query": "state=warned"}).status_code == 405
    assert olga.get(f"{VIEWS}{view.pk}/?act=delete").status_code == 405
    assert SavedView.objects.get() == view


@pytest.mark.parametrize("fields", [{"name": "", "query": "q=x"}, {"name": "x", "query": ""}])
def test_a_view_without_a_name_or_a_query_cannot_be_kept(fields: dict[str, str]) -> None:
    with pytest.raises(IntegrityError):
        SavedView.objects.create(user=factories.person("olga"), **fields)
