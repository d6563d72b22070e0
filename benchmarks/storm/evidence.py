"""Three sets of books beside one another: the upstream's, the ledger's and the log of acts. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from uuid import UUID

from benchmarks.storm.acts import Act
from benchmarks.storm.behaviours import BY_NAME
from benchmarks.storm.calls import Call

Row = Mapping[str, Any]

# An agent's own reservation, by the version of its id; the gateway's have another.
OWN_VERSION = 8


@dataclass(frozen=True)
class Limit:
    """A limit of a budget, in nanodollars, that may have been in force from `sent_at` on, and was from `done_at` on."""

    limit_nanos: int
    sent_at: float
    done_at: float
    sure: bool


@dataclass
class Evidence:
    """`books` are the upstream's entries, `rows` the ledger's (`benchmarks.storm.rows`), at rest since `now`.

    What was over at `expired_at` was expired then.
    """

    calls: Sequence[Call]
    books: Sequence[Row]
    rows: Mapping[str, Sequence[Row]]
    acts: Sequence[Act]
    drift: Sequence[Any]
    now: float
    expired_at: float
    beyond: bool = False
    judged: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @cached_property
    def calls_by_label(self) -> Mapping[str, Call]:
        return {call.label: call for call in self.calls}

    @cached_property
    def calls_by_request(self) -> Mapping[str, Call]:
        known = {entry["request_id"]: self.calls_by_label.get(entry["label"]) for entry in self.books}
        found = {request: call for request, call in known.items() if call is not None}
        return found | {call.request_id: call for call in self.calls if call.request_id and not call.replayed}

    @cached_property
    def entries_by_reservation(self) -> Mapping[str, list[Row]]:
        return grouped(self.rows["entries"], "reservation_id")

    @cached_property
    def reservations_by_request(self) -> Mapping[str, list[Row]]:
        """The gateway's holds for each of its calls, in order. One that was released is known by its id alone."""
        named = {
            entry["reservation_id"]: entry["request_id"] for entry in self.rows["entries"] if entry["kind"] == "charge"
        }
        found: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(self.rows["reservations"], key=lambda row: row["reserved_at"]):
            if not is_own(row["id"]):
                found[named.get(row["id"]) or row["id"]].append(row)
        return found

    @cached_property
    def books_by_request(self) -> Mapping[str, list[Row]]:
        return grouped(self.books, "request_id")

    def true_nanos(self, entry: Row) -> int:
        """What an entry of the upstream's books counts for."""
        if self.beyond:
            return int(entry["cost_nanos"])
        behaviour = BY_NAME.get(entry["answer"])
        if behaviour is not None and behaviour.disobeys:
            return 0
        return int(entry["sent_nanos"])

    def charged_nanos(self, reservations: Iterable[Row]) -> int:
        """What is charged for holds; one that is not resolved yet counts in full, see `still_held`."""
        charged = 0
        for row in reservations:
            charged += sum(entry["cost_nanos"] for entry in self.entries_by_reservation.get(row["id"], ()))
            charged += row["amount_nanos"] if row["status"] == "pending" else 0
        return charged

    def described(self, request_id: str) -> str:
        call = self.calls_by_request.get(request_id)
        return call.described() if call else "unknown"

    @cached_property
    def windows_of_books(self) -> Mapping[int, list[Row]]:
        """The upstream's entries in each window: those of the last hold that was made before the request arrived."""
        found: dict[int, list[Row]] = defaultdict(list)
        for request_id, entries in self.books_by_request.items():
            reservations = self.reservations_by_request.get(request_id, [])
            for entry in entries:
                before = [row for row in reservations if row["reserved_at"] <= entry["began_at"]] or reservations[:1]
                for window in before[-1]["windows"] if before else ():
                    found[window].append({**entry, "reserved_at": before[-1]["reserved_at"]})
        return found

    @cached_property
    def reservations_by_window(self) -> Mapping[int, list[Row]]:
        found: dict[int, list[Row]] = defaultdict(list)
        for row in self.rows["reservations"]:
            for window in row["windows"]:
                found[window].append(row)
        return found

    @cached_property
    def reported_by_window(self) -> Mapping[int, list[tuple[str, Row]]]:
        """Entries of reports in each window, and by whom they were reported: "agent" or "operator"."""
        found: dict[int, list[tuple[str, Row]]] = defaultdict(list)
        for entry in self.rows["entries"]:
            report = self.reports.get(entry["request_id"]) if entry["reservation_id"] is None else None
            for window in entry["windows"] if report else ():
                found[window].append((report.about["by"] if report else "", entry))
        return found

    @cached_property
    def settled_by_agents(self) -> Mapping[str, int]:
        """What agents were told that their own reservations were settled at, in nanodollars."""
        settled: dict[str, int] = {}
        for act in self.acts:
            if act.kind == "settle" and act.ok:
                settled.setdefault(act.about["reservation"], act.about["cost_nanos"])
        return settled

    @cached_property
    def reports(self) -> Mapping[str, Act]:
        return {act.about["request_id"]: act for act in self.acts if act.kind == "report"}

    @cached_property
    def limits(self) -> Mapping[int, list[Limit]]:
        """Of each budget all limits that were asked for and not refused."""
        found: dict[int, list[Limit]] = defaultdict(list)
        for act in self.acts:
            if act.kind == "limit" and (act.ok or act.status is None or act.status >= 500):
                limit = Limit(act.about["limit_nanos"], act.sent_at, act.done_at, act.ok)
                found[act.about["budget"]].append(limit)
        return found


def grouped(rows: Iterable[Row], name: str) -> Mapping[str, list[Row]]:
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[name]].append(row)
    return found


def is_own(reservation_id: str) -> bool:
    return (UUID(reservation_id).int >> 76) & 0xF == OWN_VERSION
