"""What a client that was generated of the API's description does with the running product; prints what came of it."""

from __future__ import annotations

import json
import sys

from governor_api.api.budgets import budgets_list
from governor_api.api.reservations import reservations_create, reservations_settle
from governor_api.client import AuthenticatedClient
from governor_api.models.error_body import ErrorBody
from governor_api.models.reserve_request_request import ReserveRequestRequest
from governor_api.models.reserved_body import ReservedBody
from governor_api.models.settle_request_request import SettleRequestRequest
from governor_api.models.settled_body import SettledBody
from governor_api.models.shown_budget_page import ShownBudgetPage


def main(url: str, key: str) -> dict[str, str | None]:
    with AuthenticatedClient(base_url=url, token=key) as client:
        held = reservations_create.sync(client=client, body=ReserveRequestRequest(tool="web-search", calls=2))
        assert isinstance(held, ReservedBody), held
        settled = reservations_settle.sync(held.id, client=client, body=SettleRequestRequest(calls=1))
        assert isinstance(settled, SettledBody), settled
        page = budgets_list.sync(client=client)
        assert isinstance(page, ShownBudgetPage), page
        beyond = ReserveRequestRequest(model="mistral-large-latest", estimated_cost="50")
        refused = reservations_create.sync(client=client, body=beyond)
        assert isinstance(refused, ErrorBody), refused
        return {
            "amount": held.amount,
            "action": held.action.value,
            "tool": held.tool,
            "cost": settled.cost,
            "limit": page.results[0].limit,
            "refused": refused.error.code,
        }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])))
