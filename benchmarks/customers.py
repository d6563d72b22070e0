"""Measure `stripe_reconcile` over many customers of a simulated Stripe, who each pay for a subscription.

`python -m benchmarks.customers` reads them all twice: first nothing is known of them, then all is as it was. Both
in one process beside the simulated Stripe's, with PostgreSQL or SQLite.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import servers

KEY = "sk_test_benchmark"
# Three payments each, and the middle of what the last one paid for.
PAYING_S = 75 * 86_400


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--database", choices=sorted(servers.PROCESSES), default="postgres")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stripe-") as folder,
        servers.product_environment(options.database, "http://127.0.0.1:1") as (environment, _),
    ):
        books, port = Path(folder, "state.json"), servers.free_port()
        environment |= {"STRIPE_API_BASE": f"http://127.0.0.1:{port}", "STRIPE_SECRET_KEY": KEY}
        servers.command(environment, "-m", __spec__.name, "--sell", str(books), str(options.customers))
        servers.command(environment, "manage.py", "migrate", "--verbosity", "1")
        stripe = [sys.executable, "manage.py", "simulate_stripe", "--port", str(port), "--state", str(books)]
        with servers.process(stripe, port=port, environment=environment):
            reading = [sys.executable, "-m", __spec__.name, "--read", str(options.customers)]
            # It says how far it is as it goes.
            subprocess.run(reading, env=environment, check=True)


def sell(path: Path, customers: int) -> None:
    """Customers with a card and a monthly subscription, of which they have paid three months."""
    import django

    django.setup()
    from billing.sandbox import SimulatedStripe, store

    account = SimulatedStripe(now=int(time.time()) - PAYING_S, seed="benchmark")

    def post(path: str, **params: Any) -> str:
        return str(account.call("POST", f"/v1/{path}", params)["id"])

    product = post("products", name="Plan")
    price = post(
        "prices",
        currency="usd",
        product=product,
        unit_amount=5000,
        lookup_key="standard",
        recurring={"interval": "month"},
    )
    for number in range(customers):
        customer = post("customers", payment_method="pm_card_visa", metadata={"tenant_id": f"tenant-{number}"})
        post("subscriptions", customer=customer, items=[{"price": price}])
    account.advance(by=PAYING_S)
    store.save(account.state, path)
    print(json.dumps({"customers": customers}))


def read(customers: int) -> None:
    """Read them all twice, and print what each time took: seconds, queries a customer, and the memory at its end."""
    import django

    django.setup()
    from django.db import connection

    from billing.inbox import catch_up
    from governance.models import Tenant

    Tenant.objects.bulk_create(Tenant(slug=f"tenant-{n}", name=f"tenant-{n}") for n in range(customers))
    queries = [0]

    def count(execute: Any, *args: Any) -> Any:
        queries[0] += 1
        return execute(*args)

    with connection.execute_wrapper(count):
        for _ in range(2):
            queries[0], begun, before = 0, time.monotonic(), _most_mb()
            done = catch_up.reconcile(now=datetime.now(UTC), report=_report)
            took = time.monotonic() - begun
            figures = {"seconds": round(took), "queries_each": round(queries[0] / customers, 1)}
            print(json.dumps(done.figures | figures | {"mb_before": before, "mb_at_most": _most_mb()}), flush=True)


def _report(line: str) -> None:
    """How far it is, and whether its memory grows with that."""
    print(f"{line}, {_most_mb()} MB", file=sys.stderr, flush=True)


def _most_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
    if sys.argv[1:2] == ["--sell"]:
        sell(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1:2] == ["--read"]:
        read(int(sys.argv[2]))
    else:
        main()
