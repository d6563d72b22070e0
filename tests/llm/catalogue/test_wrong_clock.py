"""What begins or is priced "now" does so by the database's clock, whatever the process's says that was told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from governance.audit import Actor
from governance.ledger import clock
from governance.models import PendingReport, SpendEntry
from llm.catalogue import prices, snapshot
from llm.models import Model, Price
from tests import factories as make
from tests.governance.api.conftest import persona
from tests.governance.ledger.test_clock import Machines, machines

__all__ = ["machines"]
pytestmark = [pytest.mark.postgres_only, pytest.mark.django_db(transaction=True)]

SMALL = "mistral-small-2603"
OFFS = [timedelta(minutes=10), -timedelta(minutes=10)]


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(clock._Known, "ahead", clock.NONE)
    snapshot.forget()
    yield
    snapshot.forget()


def output_price() -> int:
    entry = snapshot.fresh().by_name[SMALL]
    assert entry.rates is not None
    return entry.rates.output_picos


def post(_: Path) -> None:
    asked = {"model": SMALL, "unit": "output", "usd_per_million": "60"}
    assert persona("operator").post("/api/prices", asked).status_code == 201


def take_over(folder: Path) -> None:
    file = folder / "theirs.csv"
    file.write_text(f"model,unit,usd_per_million_output\n{SMALL},token,60\n")
    call_command("import_prices", str(file), approve=[f"{SMALL}:output"])


def fill_in(_: Path) -> None:
    """The console's form, as it is offered."""
    client = Client()
    client.force_login(User.objects.create_superuser("olga", password="x"))
    page = client.get(reverse("admin:llm_price_add"))
    since = page.context["adminform"].form.initial["effective_from"]
    price = Price(model=small(), unit="output", picos_per_unit=60_000_000, effective_from=since)
    prices.add(price=price, by=Actor("olga"), now=timezone.now())


def small() -> Model:
    return Model.objects.get(name=SMALL)


@pytest.mark.parametrize("off", OFFS, ids=["ahead", "behind"])
@pytest.mark.parametrize("act", [post, take_over, fill_in])
def test_a_price_from_now_on_counts_at_once_for_all(
    machines: Machines, tmp_path: Path, off: timedelta, act: Callable[[Path], None]
) -> None:
    assert output_price() == 600_000
    machines.set(off)
    act(tmp_path)
    assert output_price() == 60_000_000
    machines.set(clock.NONE)
    snapshot.forget()
    assert output_price() == 60_000_000
    began = Price.objects.latest("pk").effective_from
    assert began is not None
    assert abs(began - timezone.now()) < timedelta(minutes=1)


@pytest.mark.parametrize("off", OFFS, ids=["ahead", "behind"])
def test_a_process_that_has_just_begun_knows_which_prices_have(machines: Machines, off: timedelta) -> None:
    since = timezone.now() + off / 2
    prices.add(
        price=Price(model=small(), unit="output", picos_per_unit=60_000_000, effective_from=since),
        by=Actor("olga"),
        now=timezone.now(),
    )
    clock._Known.ahead = clock.NONE
    machines.set(off)
    snapshot.forget()
    assert output_price() == (600_000 if off > clock.NONE else 60_000_000)


def test_a_report_without_a_date_is_priced_as_calls_are(machines: Machines) -> None:
    """And one that waits for an operator is dated as calls are."""
    make.budget("1.00", soft_cap=None)
    machines.set(-timedelta(minutes=10))
    post(Path())
    reported: dict[str, Any] = {"model": SMALL, "provider": "mistral", "output_tokens": 10_000}
    tenant = persona("tenant")
    assert tenant.post("/api/spend", reported | {"request_id": "a"}).status_code == 201
    assert SpendEntry.objects.get().cost_nanos == 10_000 * 60_000
    assert tenant.post("/api/spend", reported | {"request_id": "b"}).status_code == 409
    machines.set(clock.NONE)
    assert abs(PendingReport.objects.get().occurred_at - timezone.now()) < timedelta(minutes=1)
