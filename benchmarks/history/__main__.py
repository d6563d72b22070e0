"""`python -m benchmarks.history`: the pages, the lists and the ledger itself, with two years of calls behind them.

    python -m benchmarks.history --calls 10000000             on a PostgreSQL that is started for it
    python -m benchmarks.history --calls 1000000 --database sqlite

First with none, then with so many calls of 2,000 agents of 200 customers: how many calls a second the ledger takes, how
long its proof lasts, and each page and list of the console and the API. The same calls come out each time, but for when
they end, which is now. Exit status 1 where the ledger has drifted.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import servers
from benchmarks.reports import say


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000_000, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--times", type=int, default=20, metavar="N", help="how often for each page; default: %(default)s"
    )
    parser.add_argument("--database", choices=sorted(servers.PROCESSES), default="postgres")
    parser.add_argument("--here", action="store_true", help="in the empty database that DATABASE_URL names, once")
    options = parser.parse_args()
    if options.here:
        return measure(options.calls, options.times)
    failed = 0
    for calls in (0, options.calls):
        with servers.product_environment(options.database, "http://127.0.0.1:1") as (environment, _):
            command = [
                sys.executable,
                "-m",
                "benchmarks.history",
                "--here",
                f"--calls={calls}",
                f"--times={options.times}",
            ]
            # It says how far it is as it goes.
            failed = failed or subprocess.run(command, env=environment).returncode
    return failed


def measure(calls: int, times: int) -> int:
    """Fill a database with calls, and print what it and its pages take as JSON."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from benchmarks.history import asking, filling
    from governance.upkeep import reconcile

    if connection.introspection.table_names():
        sys.exit("The database is not empty.")
    call_command("migrate", verbosity=0)
    now = timezone.now()
    found: dict[str, Any] = {"database": connection.vendor, "calls": calls}
    places = filling.make_customers(now)
    found["filled_s"] = timed(lambda: filling.fill(places, calls, now, report=say))
    found["bytes_a_call"] = round(filling.size_bytes() / max(1, calls))
    found["calls_a_second"] = asking.write(places)
    drifts: list[Any] = []
    found["proved_s"] = timed(lambda: drifts.extend(reconcile.check(report=say)))
    recent = timezone.now() - reconcile.RECENT
    found["proved_recent_s"] = timed(lambda: drifts.extend(reconcile.check(since=recent, report=say)))
    found["drifts"] = [str(drift) for drift in drifts[:20]]
    found["pages"] = asking.ask_for_pages(places, times, now, report=say)
    say("")
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    return 1 if drifts else 0


def timed(work: Callable[[], Any]) -> float:
    began = time.monotonic()
    work()
    return round(time.monotonic() - began, 1)


if __name__ == "__main__":
    sys.exit(main())
