"""What is made of the calls that met an outage."""

from __future__ import annotations

from benchmarks.faults import Call, Load, felt


def test_what_callers_felt_is_told_from_when_their_calls_began_and_ended() -> None:
    served, away = "200", "503 ledger_unavailable"
    load = Load("http://127.0.0.1", "key")
    load.calls = [
        Call(1.0, 0.01, served),
        # Trouble begins at 4 s: this one waits in vain, and the next are told at once.
        Call(4.5, 2.0, away),
        Call(7.0, 0.05, away),
        Call(9.0, 0.02, away),
        # It is over at 24 s.
        Call(24.1, 0.01, away),
        Call(24.4, 0.1, served),
        Call(25.0, 0.01, served),
    ]
    load.ready = [Call(3.0, 0.02, served), Call(10.0, 0.8, "503"), Call(25.0, 0.02, served)]
    found = felt(load, began_s=4.0, over_s=24.0)
    assert found["endings"] == {served: 3, away: 4}
    assert (found["first_refusal_s"], round(found["worst_wait_ms"])) == (2.5, 2000)
    # Only what began once the outage had been noticed.
    assert round(found["known_worst_ms"]) == 20
    assert round(found["first_served_s"], 2) == 0.5
    assert round(found["last_refusal_s"], 2) == 0.11
    assert (round(found["ready_worst_ms"]), found["ready_said"]) == (800, {"503": 1})
