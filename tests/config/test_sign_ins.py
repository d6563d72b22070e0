"""Who signed in, and who tried to in vain, is kept for as long as the setting says."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from axes.models import AccessAttempt, AccessFailureLog, AccessLog
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from config import sign_ins, tasks

MODELS: tuple[Any, ...] = (AccessLog, AccessFailureLog, AccessAttempt)


def try_to_sign_in(password: str) -> int:
    form = {"username": "olga", "password": password}
    return Client().post("/admin/login/", form, REMOTE_ADDR="203.0.113.9").status_code


@pytest.mark.django_db
def test_they_are_deleted_when_they_are_old(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign_ins, "BATCH", 2)
    settings.SIGN_INS_DAYS = 30
    User.objects.create_user("olga", password="a long enough one", is_staff=True, is_superuser=True)
    try_to_sign_in("a long enough one")
    for _ in range(5):
        try_to_sign_in("wrong")
    assert [model.objects.count() for model in MODELS] == [1, 5, 1]
    now = timezone.now()
    AccessFailureLog.objects.filter(pk=AccessFailureLog.objects.latest("pk").pk).update(
        attempt_time=now - timedelta(days=29)
    )
    old = now - timedelta(days=30, seconds=1)
    for model in MODELS:
        model.objects.filter(attempt_time__gt=now - timedelta(days=1)).update(attempt_time=old)
    assert tasks.purge_sign_ins() == 6
    assert [model.objects.count() for model in MODELS] == [0, 1, 0]
    assert tasks.purge_sign_ins() == 0


@pytest.mark.django_db
def test_whoever_is_locked_out_stays_so(settings: Any) -> None:
    settings.SIGN_INS_DAYS = 1
    for _ in range(settings.AXES_FAILURE_LIMIT):
        try_to_sign_in("wrong")
    tasks.purge_sign_ins()
    assert try_to_sign_in("wrong") == 429
