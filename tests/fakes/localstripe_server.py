"""`python -m tests.fakes.localstripe_server PORT`: localstripe on a loopback port, with what it lacks for a journey.

It knows old shapes alone: periods on subscriptions, `plan` for `price`, no `billing_reason`, no `invoice.paid`. Its
subscriptions never come to their next period; `POST /_config/renew/<subscription>` brings one there and bills it. And
invoices are filtered by their status. What else it lacks (disputes, expansions) stays lacking.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable

from aiohttp import web
from localstripe import resources, server, webhooks  # type: ignore[import-untyped]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def invoices_by_status(request: web.Request, handler: Handler) -> web.StreamResponse:
    status = request.query.get("status")
    if request.path != "/v1/invoices" or status is None:
        return await handler(request)
    plain = request.clone(rel_url=request.rel_url.without_query_params("status"))
    plain._match_info = request._match_info
    answer = await handler(plain)
    assert isinstance(answer, web.Response)
    found = json.loads(answer.text or "{}")
    found["data"] = [invoice for invoice in found.get("data", ()) if invoice["status"] == status]
    return web.json_response(found, status=answer.status)


async def renew(request: web.Request) -> web.Response:
    """The next period begins where this one ends; its invoice is paid, or is not."""
    subscription = resources.Subscription._api_retrieve(request.match_info["id"])
    subscription.start_date = subscription.current_period_end
    subscription._create_invoice()
    invoice = resources.Invoice._api_retrieve(subscription.latest_invoice)
    _send("customer.subscription.updated", subscription)
    if invoice.status == "open":
        _send("invoice.payment_failed", invoice)
    return web.json_response({"invoice": invoice.id, "status": invoice.status})


def _send(kind: str, about: object) -> None:
    webhooks.schedule_webhook(resources.Event(kind, about))


def main() -> None:
    # It would keep its state in a file that all runs share.
    resources.store.dump_to_disk = lambda: None
    server.app.middlewares.append(invoices_by_status)
    server.app.router.add_post("/_config/renew/{id}", renew)
    web.run_app(server.app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)


if __name__ == "__main__":
    main()
