"""What must hold after a storm, from three sets of books: the upstream's, the ledger's and the log of acts. Pure.

What no gateway can know is left out unless it is asked for (`beyond`): tokens that never left the upstream, because
its peer had gone, and answers longer than they were allowed to be.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.storm.acts import Act
from benchmarks.storm.behaviours import BY_NAME
from benchmarks.storm.calls import Call
from benchmarks.storm.evidence import Evidence, Limit, Row, grouped, is_own

# A decision is taken after the time that it notes, by as long as it waited for its locks.
DECIDED_WITHIN_S = 2.0
# What was over by then is charged: the command and the database read the same clock.
CLOCKS_S = 1.0
# A second is what is promised; a machine with too much to do takes longer.
CLOSED_WITHIN_S = 5.0
# As with those, a second is promised, and the settlement may come a little later.
CUT_WITHIN_S = 10.0
# Usage that says more than was used, and might be true.
BELIEVED = ("larger_total",)
# Clients that read all they can get.
_READING = ("reads", "repeats")


@dataclass(frozen=True)
class Breach:
    """What did not hold, of what, and by how much. `call` says how the call behaved, where it is about one."""

    check: str
    subject: str
    detail: str
    call: str = ""


def nanos(amount: int) -> str:
    return f"${amount / 1e9:.9f}"


def breaches(evidence: Evidence) -> list[Breach]:
    return [breach for check in CHECKS for breach in check(evidence)]


def charged_less(evidence: Evidence) -> Iterator[Breach]:
    """No call is charged less than the upstream spent on it."""
    for request_id, entries in evidence.books_by_request.items():
        true_nanos = sum(evidence.true_nanos(entry) for entry in entries)
        evidence.judged["charged less than the truth"] += 1
        charged_nanos = evidence.charged_nanos(evidence.reservations_by_request.get(request_id, []))
        if charged_nanos < true_nanos:
            tokens = ", ".join(f"{entry['prompt_tokens']}+{entry['output_tokens']}" for entry in entries)
            detail = f"books {nanos(true_nanos)} ({tokens} tokens), ledger {nanos(charged_nanos)}"
            yield Breach("charged less than the truth", request_id, detail, evidence.described(request_id))


def tenants_less(evidence: Evidence) -> Iterator[Breach]:
    """No tenant is charged less than the upstream spent on its calls."""
    true: dict[str, int] = defaultdict(int)
    charged: dict[str, int] = defaultdict(int)
    for request_id, entries in evidence.books_by_request.items():
        for row in evidence.reservations_by_request.get(request_id, ())[:1]:
            true[row["tenant__slug"]] += sum(evidence.true_nanos(entry) for entry in entries)
    for row in evidence.rows["reservations"]:
        if not is_own(row["id"]):
            charged[row["tenant__slug"]] += evidence.charged_nanos([row])
    for tenant, true_nanos in true.items():
        evidence.judged["a tenant charged less"] += 1
        if charged[tenant] < true_nanos:
            detail = f"books {nanos(true_nanos)}, ledger {nanos(charged[tenant])}"
            yield Breach("a tenant charged less", tenant, detail)


def not_exact(evidence: Evidence) -> Iterator[Breach]:
    """Where the upstream said its true cost, that is charged, to the nanodollar."""
    for request_id, entries in evidence.books_by_request.items():
        behaviour = BY_NAME.get(entries[0]["answer"])
        charges = [
            entry
            for row in evidence.reservations_by_request.get(request_id, ())
            for entry in evidence.entries_by_reservation.get(row["id"], ())
        ]
        if behaviour is None or not behaviour.tells or len(entries) != 1 or len(charges) != 1:
            continue
        call, charge, true_nanos = evidence.calls_by_request.get(request_id), charges[0], entries[0]["cost_nanos"]
        was_read = call is not None and call.whole and call.status == 200 and not call.stopped and not call.replayed
        if not was_read and charge["certainty"] != "confirmed":
            continue
        evidence.judged["not charged exactly"] += 1
        if charge["cost_nanos"] != true_nanos or charge["certainty"] != "confirmed":
            detail = f"books {nanos(true_nanos)}, ledger {nanos(charge['cost_nanos'])}, "
            detail += f"{charge['certainty']} {charge['reason']}"
            yield Breach("not charged exactly", request_id, detail, evidence.described(request_id))


def over_caps(evidence: Evidence) -> Iterator[Breach]:
    """What was truly spent in a window under holds, and reported by agents, stays within its hard cap."""
    for window in evidence.rows["windows"]:
        hard_e4 = next(row["hard_e4"] for row in evidence.rows["budgets"] if row["id"] == window["budget_id"])
        spent_nanos = _spent_nanos(evidence, window["id"])
        most_nanos = max(_possible_limits(evidence, window), default=window["limit_nanos"])
        evidence.judged["over a cap"] += 1
        if spent_nanos > most_nanos * hard_e4 // 10_000:
            yield _over(evidence, window, spent_nanos, most_nanos * hard_e4 // 10_000, "at its highest limit")
            continue
        for limit, spent_nanos in _spent_under(evidence, window):
            evidence.judged["over a cap"] += 1
            if spent_nanos > limit.limit_nanos * hard_e4 // 10_000:
                cap_nanos = limit.limit_nanos * hard_e4 // 10_000
                yield _over(evidence, window, spent_nanos, cap_nanos, f"at the limit of {limit.done_at:.3f}")
                break


def _over(evidence: Evidence, window: Row, spent_nanos: int, cap_nanos: int, when: str) -> Breach:
    scope = next(row["scope"] for row in evidence.rows["budgets"] if row["id"] == window["budget_id"])
    missed: list[tuple[int, str]] = []
    for entry in evidence.windows_of_books.get(window["id"], ()):
        charged = evidence.charged_nanos(evidence.reservations_by_request.get(entry["request_id"], ()))
        missed.append((evidence.true_nanos(entry) - charged, entry["request_id"]))
    worst = max(missed, default=(0, ""))[1]
    detail = f"{scope} {window['subject']}: spent {nanos(spent_nanos)}, cap {nanos(cap_nanos)} {when}"
    return Breach("over a cap", f"window {window['id']}", f"{detail}; most amiss {worst}", evidence.described(worst))


def _spent_nanos(evidence: Evidence, window_id: int) -> int:
    spent = sum(evidence.true_nanos(entry) for entry in evidence.windows_of_books.get(window_id, ()))
    for row in evidence.reservations_by_window.get(window_id, ()):
        spent += evidence.settled_by_agents.get(row["id"], 0)
    for by, row in evidence.reported_by_window.get(window_id, ()):
        spent += row["cost_nanos"] if by == "agent" else 0
    return spent


def _possible_limits(evidence: Evidence, window: Row) -> Iterator[int]:
    """Limits that may have been in force while a window was open."""
    opened_at, closed_at = window["opened_at"], window["closed_at"] or evidence.now
    limits = evidence.limits[window["budget_id"]]
    for limit in limits:
        later = [other.done_at for other in limits if other.sure and other.sent_at >= limit.done_at and other != limit]
        if limit.sent_at <= closed_at and min(later, default=evidence.now) >= opened_at:
            yield limit.limit_nanos


def _spent_under(evidence: Evidence, window: Row) -> Iterator[tuple[Limit, int]]:
    """For each limit that was surely in force: what had to fit under it when a call was last admitted."""
    limits = evidence.limits[window["budget_id"]]
    for limit in limits:
        others = [other for other in limits if other is not limit]
        if not limit.sure or any(o.sent_at < limit.done_at and o.done_at > limit.sent_at for o in others):
            continue
        until = min((o.sent_at for o in others if o.sent_at >= limit.done_at), default=evidence.now)
        admitted = [
            row["reserved_at"]
            for row in evidence.reservations_by_window.get(window["id"], ())
            if limit.done_at <= row["reserved_at"] <= until - DECIDED_WITHIN_S
        ]
        if not admitted:
            continue
        last = max(admitted)
        spent = sum(
            evidence.true_nanos(entry)
            for entry in evidence.windows_of_books.get(window["id"], ())
            if entry["reserved_at"] <= last and (entry["ended_at"] or evidence.now) <= until
        )
        for row in evidence.reservations_by_window.get(window["id"], ()):
            if row["resolved_at"] is not None and row["resolved_at"] <= until and row["reserved_at"] <= last:
                spent += evidence.settled_by_agents.get(row["id"], 0)
        for _, entry in evidence.reported_by_window.get(window["id"], ()):
            spent += entry["cost_nanos"] if entry["recorded_at"] <= last - DECIDED_WITHIN_S else 0
        yield limit, spent


def overages(evidence: Evidence) -> Iterator[Breach]:
    """No call is charged above its hold: it covers all that an upstream may do, and no more is believed of one that
    says what cannot be."""
    for request_id, entries in evidence.books_by_request.items():
        behaviour = BY_NAME.get(entries[0]["answer"])
        evidence.judged["above its hold"] += 1
        if behaviour is None or behaviour.disobeys or behaviour.answer.usage in BELIEVED:
            continue
        for row in evidence.reservations_by_request.get(request_id, ()):
            for entry in evidence.entries_by_reservation.get(row["id"], ()):
                if entry["overage_nanos"]:
                    detail = f"held {nanos(row['amount_nanos'])}, charged {nanos(entry['cost_nanos'])}"
                    yield Breach("above its hold", request_id, detail, evidence.described(request_id))


def still_held(evidence: Evidence) -> Iterator[Breach]:
    """Nothing is held for a call that has ended, nor beyond the time of its hold."""
    for row in evidence.rows["reservations"]:
        evidence.judged["still held"] += 1
        if row["status"] != "pending":
            continue
        if not is_own(row["id"]):
            call = evidence.calls_by_request.get(row["id"])
            running = any(entry["ended_at"] is None for entry in evidence.books_by_request.get(row["id"], ()))
            if running and call is not None and (call.once or not call.surely_streams):
                # It waits for a whole answer, which may be of use yet.
                continue
            yield Breach("still held", row["id"], f"held {nanos(row['amount_nanos'])}", evidence.described(row["id"]))
        elif row["expires_at"] < evidence.expired_at - CLOCKS_S:
            yield Breach("still held", row["id"], f"its time was over at {row['expires_at']:.0f}")


def left_running(evidence: Evidence) -> Iterator[Breach]:
    """Soon after the client of a stream has gone, the upstream's connection is closed."""
    for entry in evidence.books:
        call = evidence.calls_by_label.get(entry["label"])
        if call is None or call.whole or call.once or not call.surely_streams:
            continue
        evidence.judged["an upstream left running"] += 1
        ended_at = entry["gone_at"] or entry["ended_at"] or evidence.now
        if ended_at > call.ended_at + CLOSED_WITHIN_S:
            detail = f"{ended_at - call.ended_at:.1f} s after its client had gone"
            yield Breach("an upstream left running", call.label, detail, call.described())


def drifted(evidence: Evidence) -> Iterator[Breach]:
    evidence.judged["the ledger has drifted"] += 1
    for drift in evidence.drift:
        yield Breach("the ledger has drifted", f"{drift['invariant']} {drift['subject']}", str(drift))


def wrong_answers(evidence: Evidence) -> Iterator[Breach]:
    """No 500; no other 5xx but the upstream's; and whoever reads gets an answer, to its end, in time."""
    for call in evidence.calls:
        behaviour = BY_NAME[call.answer]
        evidence.judged["a wrong answer"] += 1
        detail = f"{call.status} {call.code or call.broken}"
        # A client that left before it had read the code cannot say.
        unread = not call.code and not call.whole
        caused = (behaviour.fails and call.code.startswith("upstream")) or call.code == "breaker_open"
        if call.status is not None and call.status >= 500 and (call.status == 500 or not (caused or unread)):
            yield Breach("a wrong answer", call.label, detail, call.described())
        elif call.overdue:
            waited = f"{call.ended_at - call.began_at:.0f} s, {detail}"
            yield Breach("a client that waits", call.label, waited, call.described())
        elif call.client in _READING and not behaviour.hangs and not call.whole:
            yield Breach("half an answer", call.label, detail, call.described())


def broken_acts(evidence: Evidence) -> Iterator[Breach]:
    """Every act is answered, and by no 5xx."""
    for number, act in enumerate(evidence.acts):
        evidence.judged["an act that broke"] += 1
        if act.status is None or act.status >= 500:
            # A page says what is wrong at its beginning, a command at its end.
            path, said = act.about.get("path"), " ".join(str(act.said).split())
            name, said = (path, said[:200]) if path else (act.about.get("command"), said[-200:])
            yield Breach("an act that broke", f"act {number}", f"{act.kind} {name}: {act.status} {said}")


def admitted_while_stopped(evidence: Evidence) -> Iterator[Breach]:
    """From the answer to a stop (or pause) to the next lift of that tenant no call is admitted and no hold grows."""
    for stop, until in _stops(evidence):
        evidence.judged["admitted while stopped"] += 1
        for row in evidence.rows["reservations"]:
            covered = _covers(stop, row["tenant__slug"], row["agent"])
            if covered and stop.done_at < row["reserved_at"] and _seen_at(evidence, row) < until:
                detail = f"{row['reserved_at'] - stop.done_at:.3f} s after {stop.about}"
                yield Breach("admitted while stopped", row["id"], detail, evidence.described(row["id"]))
        for act in evidence.acts:
            meanwhile = act.kind == "extend" and act.ok and stop.done_at < act.sent_at and act.done_at < until
            if meanwhile and _covers(stop, act.about["tenant"], act.about["agent"]):
                yield Breach("admitted while stopped", act.about["reservation"], f"extended after {stop.about}")


def _seen_at(evidence: Evidence, row: Mapping[str, Any]) -> float:
    """When a call had certainly been admitted: its upstream was asked, or its agent was answered."""
    asked = (entry["began_at"] for entry in evidence.books_by_request.get(row["id"], ()))
    answered = (
        act.done_at for act in evidence.acts if act.kind == "reserve" and act.ok and act.said["id"] == row["id"]
    )
    return min((*asked, *answered), default=row["reserved_at"])


def not_cut(evidence: Evidence) -> Iterator[Breach]:
    """An emergency stop cuts what runs, and what it cost is settled soon."""
    for stop, _ in _stops(evidence):
        if stop.about.get("path") != "stops":
            # A pause lets running calls end.
            continue
        for row in evidence.rows["reservations"]:
            if is_own(row["id"]) or not _covers(stop, row["tenant__slug"], row["agent"]):
                continue
            evidence.judged["not cut by a stop"] += 1
            resolved_at = row["resolved_at"] or evidence.now
            if row["reserved_at"] < stop.sent_at and resolved_at > stop.done_at + CUT_WITHIN_S:
                detail = f"held until {resolved_at - stop.done_at:.1f} s after {stop.about}"
                yield Breach("not cut by a stop", row["id"], detail, evidence.described(row["id"]))


def _stops(evidence: Evidence) -> Iterator[tuple[Act, float]]:
    """Stops that surely were in force, and until when. One beside which that tenant was lifted is not."""
    lifts = [act for act in evidence.acts if act.kind == "lift"]
    for stop in evidence.acts:
        if stop.kind == "stop" and stop.ok:
            own = [lift for lift in lifts if lift.about["tenant"] == stop.about["tenant"]]
            if not any(lift.sent_at < stop.done_at and lift.done_at > stop.sent_at for lift in own):
                yield stop, min((lift.sent_at for lift in own if lift.sent_at >= stop.done_at), default=evidence.now)


def _covers(stop: Act, tenant: str, agent: str) -> bool:
    return tenant == stop.about["tenant"] and stop.about.get("agent") in (None, agent)


def told_otherwise(evidence: Evidence) -> Iterator[Breach]:
    """What agents and operators were told is in the ledger: reports and settlements, once each."""
    told = "not as it was told"
    reported = grouped((row for row in evidence.rows["entries"] if row["reservation_id"] is None), "request_id")
    for act in evidence.acts:
        if act.kind == "report" and act.ok:
            evidence.judged[told] += 1
            costs = [row["cost_nanos"] for row in reported.get(act.about["request_id"], ()) if row["kind"] == "charge"]
            if costs != [act.about["cost_nanos"]]:
                yield Breach(
                    told, act.about["request_id"], f"reported {act.about['cost_nanos']}, in the ledger {costs}"
                )
    for reservation, cost_nanos in evidence.settled_by_agents.items():
        evidence.judged[told] += 1
        charged = sum(row["cost_nanos"] for row in evidence.entries_by_reservation.get(reservation, ()))
        if charged != cost_nanos:
            yield Breach(told, reservation, f"settled at {nanos(cost_nanos)}, in the ledger {nanos(charged)}")


def answered_twice(evidence: Evidence) -> Iterator[Breach]:
    """Under one Idempotency-Key one answer is made, and all others are the same one again."""
    once: dict[str, list[Call]] = defaultdict(list)
    for call in evidence.calls:
        if call.once and call.status == 200 and call.whole and not call.stopped and not call.replayed:
            once[call.once].append(call)
    for key, calls in once.items():
        evidence.judged["answered twice under one key"] += 1
        behaviour = BY_NAME[calls[0].answer]
        if len(calls) > 1 and behaviour.tells:
            detail = f"{len(calls)} answers: {', '.join(call.request_id for call in calls)}"
            yield Breach("answered twice under one key", key, detail, calls[0].described())


CHECKS = (
    charged_less,
    tenants_less,
    not_exact,
    over_caps,
    overages,
    still_held,
    left_running,
    drifted,
    wrong_answers,
    broken_acts,
    admitted_while_stopped,
    not_cut,
    told_otherwise,
    answered_twice,
)
