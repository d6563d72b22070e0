"""Which models a call may be tried at, in which order."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """`ranked`: every candidate does as well as the first, so the money may choose among them."""

    candidates: tuple[str, ...]
    ranked: bool = False


def plan(model: str) -> Plan:
    """The model that was asked for."""
    return Plan((model,))


class Breakers:
    """Every model is called."""

    def admits(self, place: str, now: float) -> bool:
        return True

    def succeeded(self, place: str, latency_ms: float | None, now: float) -> None: ...

    def failed(self, place: str, now: float) -> None: ...

    def cool_down(self, place: str, until: float) -> None: ...

    def release_probe(self, place: str) -> None: ...
