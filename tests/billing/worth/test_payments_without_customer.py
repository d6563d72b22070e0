"""An invoice may be paid by a payment that has no customer: what becomes of that is heard of all the same."""

from __future__ import annotations

import pytest

from billing.accounts import sync
from billing.inbox import catch_up
from billing.models import BillingAccount
from tests.billing.sandbox.conftest import Shop
from tests.billing.worth.test_after_deletion import hear
from tests.billing.worth.test_calls_under_way import first_charge, left
from tests.billing.worth.test_held_up import at
from tests.billing.worth.test_undone_topups import subscriber, use


@pytest.mark.parametrize("heard", ["by its event", "by a reading", "by a reconcile"])
@pytest.mark.parametrize("how", ["refunded", "disputed"])
def test_what_one_paid_for_goes_back_with_it(shop: Shop, how: str, heard: str) -> None:
    customer = subscriber(shop)
    use(shop, 20)
    charge = first_charge(shop)
    shop.account.state.get("charge", charge)["customer"] = None
    sync.customer(customer, now=at(shop))
    assert left(shop) == 30
    if how == "refunded":
        shop.post("refunds", charge=charge)
    else:
        shop.account.dispute(charge)
    if heard == "by its event":
        hear(shop)
    elif heard == "by a reading":
        sync.customer(customer, now=at(shop))
    else:
        catch_up.reconcile(now=at(shop))
    account = BillingAccount.objects.get()
    assert (left(shop), account.state, account.reasons) == (0, "frozen", [how])
