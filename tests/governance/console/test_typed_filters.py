"""Lists are filtered by customer, agent and budget by typing: no list of thousands, and no other tenant's name."""

from __future__ import annotations

import pytest
from django.test import Client

from governance.models import Budget
from tests import factories
from tests.governance.console.clients import signed_in

pytestmark = pytest.mark.django_db
WINDOWS = "/admin/governance/budgetwindow/"


@pytest.fixture
def theirs() -> Budget:
    factories.budget("9", tenant=factories.tenant("acme"))
    return factories.budget("7", tenant=factories.tenant("globex"))


def offered(client: Client, field: str, term: str = "") -> list[str]:
    """What may be chosen of, as the page asks for it."""
    asked = {"app_label": "governance", "model_name": "budgetwindow", "field_name": field, "term": term}
    answer = client.get("/admin/autocomplete/", asked)
    return sorted(found["text"] for found in answer.json()["results"])


def test_a_list_names_the_chosen_alone_and_offers_what_is_typed(theirs: Budget) -> None:
    viewer = signed_in("vera", "viewer")
    page = viewer.get(WINDOWS, {"tenant__id__exact": theirs.tenant_id}).content.decode()
    assert "globex" in page
    assert "acme" not in page
    assert offered(viewer, "tenant", "glo") == ["globex"]
    assert offered(viewer, "budget") == ["acme per day", "globex per day"]


def test_a_tenants_own_staff_is_told_of_no_others(theirs: Budget) -> None:
    staff = signed_in("tess", "tenant staff", of=factories.tenant("acme"))
    page = staff.get(WINDOWS, {"budget__id__exact": theirs.pk})
    assert page.status_code == 200
    assert "globex" not in page.content.decode()
    assert offered(staff, "budget") == ["acme per day"]


@pytest.mark.parametrize(
    "table", ["budget", "allowance", "budgetevent", "apikey", "agent", "spendentry", "refusedcall"]
)
def test_its_form_has_its_button_and_the_scripts(theirs: Budget, table: str) -> None:
    page = signed_in("vera", "viewer").get(f"/admin/governance/{table}/").content.decode()
    for part in ("Apply Filters", "unfold-filter-autocomplete", "select2.init.js"):
        assert part in page
