"""The floor that governed calls are held against: it relays what it is sent, and nothing else."""

from __future__ import annotations

import httpx2 as httpx

from benchmarks import servers
from benchmarks.upstream import COMPLETION


def test_the_floor_passes_on_what_the_upstream_answers() -> None:
    with servers.upstream("fixed") as upstream, servers.relay(upstream, processes=1) as (url, pid):
        answers = [httpx.post(f"{url}/v1/chat/completions", json={"model": "m"}, timeout=30) for _ in range(2)]
        assert servers.cpu_s([pid]) > 0
    assert [(answer.status_code, answer.json()) for answer in answers] == [(200, COMPLETION)] * 2
