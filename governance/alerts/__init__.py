"""What is wrong and needs a person. Callers import this package: `alerts.report(...)`."""

from governance.alerts.conditions import AlertCleared, acknowledge, clear, open_ones, report

__all__ = ["AlertCleared", "acknowledge", "clear", "open_ones", "report"]
