"""`manage.py simulate_stripe` as one meets it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

from config.supervisor import answers, free_port
from tests.environment import ROOT
from tests.product import eventually

KEY = {"authorization": "Bearer sk_test_1"}


@pytest.mark.parametrize("key", ["sk_live_1", "rk_live_1"])
def test_it_does_not_start_beside_a_live_key(settings: Any, key: str) -> None:
    settings.STRIPE_SECRET_KEY = key
    with pytest.raises(CommandError, match="live key"):
        call_command("simulate_stripe", "--port", "0")


def test_it_does_not_start_on_a_file_of_others(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(CommandError, match="no state of a simulated Stripe"):
        call_command("simulate_stripe", "--port", "0", "--state", str(tmp_path / "notes"))
    assert (tmp_path / "notes").read_text() == "mine"


def test_it_answers_until_it_is_ended_and_then_goes_on(tmp_path: Path) -> None:
    port, state = free_port("127.0.0.1"), tmp_path / "stripe.json"
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "manage.py", "simulate_stripe", "--port", str(port), "--state", str(state)]
    customers: list[str] = []
    for _ in range(2):
        with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"VAR_DIR": str(tmp_path / "var")}) as process:
            try:
                assert eventually(lambda: answers(url), within_s=60)
                known = httpx.get(f"{url}/v1/customers", headers=KEY).json()["data"]
                assert [one["id"] for one in known] == customers
                made = httpx.post(f"{url}/v1/customers", data={"name": "a"}, headers=KEY)
                customers.insert(0, made.json()["id"])
            finally:
                process.terminate()
                assert process.wait(timeout=20) in (0, -15)
        assert state.is_file()
