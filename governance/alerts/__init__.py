"""What is wrong and needs a person, and how they are told. Callers import this package: `alerts.report(...)`."""

from governance.alerts.conditions import AlertCleared, acknowledge, clear, clear_others, open_ones, report
from governance.alerts.notices import tell

__all__ = ["AlertCleared", "acknowledge", "clear", "clear_others", "open_ones", "report", "tell"]
