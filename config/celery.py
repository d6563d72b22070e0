"""Background jobs. Their settings are the CELERY_* ones in `config.settings`."""

import os
import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from celery import Celery, Task
from celery.signals import worker_process_shutdown

from config.installation import INSTALLED

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


class OneAtATime(Task):  # type: ignore[type-arg]
    """A task; what beat runs again and again is run once at a time, and how that went is noted."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Settings read this module, before there are models.
        from django.db import InterfaceError, OperationalError
        from django.utils import timezone

        from config import tracing
        from governance import request_ids
        from governance.upkeep import jobs, outage

        work = partial(super().__call__, *args, **kwargs)
        task_id, parent = self.request.id or "", getattr(self.request, tracing.TRACEPARENT, None) or ""
        if not self.request.called_directly:
            tracing.tell_lines()
        with request_ids.known_as(task_id), tracing.of_job(self.name, task_id=task_id, parent=parent):
            if self.name not in PERIODS:
                return work()
            try:
                return jobs.run(self.name, work)
            except (InterfaceError, OperationalError) as error:
                # Nothing can be kept of it where it is: `send_alerts` says when it is over.
                outage.seen(error, now=timezone.now())
                raise

    def apply_async(self, *args: Any, **options: Any) -> Any:
        from config import tracing

        options["headers"] = {**(options.get("headers") or {}), **tracing.headers_to_send()}
        return super().apply_async(*args, **options)


@worker_process_shutdown.connect
def _end_tracing(**signal: Any) -> None:
    """Celery's own processes end without Python's."""
    from config import tracing

    tracing.close()


app = Celery("spend-governor", task_cls=OneAtATime)
if INSTALLED:
    # Celery puts the working directory first, for Django's projects; what lies there is not the product.
    sys.path.remove(os.getcwd())
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

PERIODS = {
    "governance.tasks.send_alerts": timedelta(seconds=10),
    "governance.tasks.expire_reservations": timedelta(seconds=15),
    "governance.tasks.follow_acts": timedelta(seconds=15),
    "governance.tasks.watch_spend": timedelta(seconds=15),
    "billing.tasks.sweep_inbox": timedelta(seconds=30),
    "governance.tasks.roll_windows": timedelta(minutes=1),
    "governance.tasks.look_at_conditions": timedelta(minutes=1),
    "llm.tasks.look_at_breakers": timedelta(minutes=1),
    "governance.tasks.look_ahead": timedelta(minutes=15),
    # Asks whether something is due: hourly, nightly, or at once after a pause.
    "billing.tasks.heal": timedelta(minutes=1),
    "billing.tasks.report_usage": timedelta(minutes=5),
    # Asks whether somebody's week or month is over.
    "governance.tasks.send_reports": timedelta(minutes=5),
    "governance.tasks.purge_kept_answers": timedelta(minutes=10),
    "governance.tasks.forecast_budgets": timedelta(minutes=10),
    "governance.tasks.reconcile_ledger": timedelta(hours=1),
    "governance.tasks.purge_refusals": timedelta(hours=1),
    "governance.tasks.purge_alerts": timedelta(hours=1),
    "config.tasks.purge_sign_ins": timedelta(hours=1),
    "billing.tasks.review_usage": timedelta(hours=6),
    "governance.tasks.judge_ledger": timedelta(hours=6),
    "llm.tasks.sync_models": timedelta(days=1),
}


def schedule() -> dict[str, dict[str, Any]]:
    """Beat's schedule. A run that no worker took before the next one is due is dropped, so none pile up."""
    return {
        task: {"task": task, "schedule": period, "options": {"expires": period.total_seconds()}}
        for task, period in PERIODS.items()
    }


def broker_url(redis_url: str) -> str:
    """Celery's name for where its tasks travel; redis-py's `unix://` is `redis+socket://` to it."""
    return redis_url.replace("unix://", "redis+socket://", 1) or "filesystem://localhost"


def folders(var_dir: Path) -> dict[str, Any]:
    """Options of the broker that needs no service: messages are files, for the processes of one machine."""
    queue, control = var_dir / "broker" / "queue", var_dir / "broker" / "control"
    for folder in (queue, control):
        folder.mkdir(parents=True, exist_ok=True)
    return {"data_folder_in": str(queue), "data_folder_out": str(queue), "control_folder": str(control)}
