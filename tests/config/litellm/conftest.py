from __future__ import annotations

from collections.abc import Iterator

import pytest
import time_machine

from tests.factories import NOON


@pytest.fixture
def at_noon() -> Iterator[None]:
    with time_machine.travel(NOON, tick=False):
        yield
