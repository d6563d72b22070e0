"""A database that is away is told of all the same: to ALERT_URLS, once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import OperationalError

from governance import tasks
from governance.models import AlertNotice
from governance.upkeep import outage, telling
from tests.factories import NOON
from tests.fakes.alert_receivers import receiver

MINUTE = timedelta(minutes=1)


@pytest.mark.django_db
def test_it_is_told_once_after_a_minute_and_that_it_is_over_when_it_answers(
    settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VAR_DIR = tmp_path
    with receiver() as hook:
        settings.ALERT_URLS = [hook.url.replace("http://", "json://"), "json://127.0.0.1:1/nobody"]
        with monkeypatch.context() as patched:

            def away(**_: Any) -> int:
                raise OperationalError("the server closed the connection")

            patched.setattr(telling, "run", away)
            for minute in (0, 0.5, 1, 2, 60):
                with time_machine.travel(NOON + minute * MINUTE, tick=False), pytest.raises(OperationalError):
                    tasks.send_alerts()
        [body] = hook.bodies
        assert body["message"].startswith("The database of Spend Governor has not answered since 12:00 UTC")
        # What no file can say begins anew.
        (tmp_path / outage.FILE).write_text("{")
        with time_machine.travel(NOON + 61 * MINUTE, tick=False):
            tasks.send_alerts()
        assert not AlertNotice.objects.exists()
        outage._keep(tmp_path / outage.FILE, NOON, told=True)
        with time_machine.travel(NOON + 62 * MINUTE, tick=False):
            tasks.send_alerts()
        assert AlertNotice.objects.get().message.startswith("It did not answer from 12:00 to 13:02 UTC")
        outage.over(now=NOON)
        assert AlertNotice.objects.count() == 1


def test_where_nothing_can_be_noted_nobody_is_told_twice(settings: Any, tmp_path: Path) -> None:
    settings.VAR_DIR = tmp_path / "nowhere"
    settings.ALERT_URLS = []
    assert not outage.seen(OperationalError(), now=NOON)
    assert not outage.seen(OperationalError(), now=NOON + MINUTE)
