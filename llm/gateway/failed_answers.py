"""What answers cost that are errors, or broke off with one: what these say was used, or show of work before them."""

from __future__ import annotations

from functools import partial, reduce
from typing import Any

from governance.rules.calls import Usage
from llm.gateway import upstream
from llm.gateway.bodies import Turn
from llm.gateway.holds import Hold
from llm.rules import forbidden, shown_work, usage
from llm.rules.shown_work import ShownWork
from llm.rules.stream_usage import StreamUsage


async def count(hold: Hold, turn: Turn, *, in_200: bool = True) -> tuple[Usage | None, ShownWork]:
    """Count what the errors of an answer show of work before them. What they say was used, and what else they show.

    Their texts are looked for in the request, so it takes time by the size of both.
    """
    look = partial(shown_work.of, *hold.failures, asked=hold.asked, is_answer=in_200)
    work = await turn.work(max(hold.asked.size_bytes, hold.failure_bytes), look)
    hold.failures.clear()
    hold.count.shows(work.text_bytes)
    if work.is_told:
        hold.count.lose()
    used = reduce(usage.larger, map(hold.reported, work.counts), None)
    return used, work


async def settle_error(
    hold: Hold,
    turn: Turn,
    answer: upstream.Refusing,
    said: dict[str, Any],
    used: Usage | None,
    told: StreamUsage | None,
    *,
    size_bytes: int,
) -> None:
    """Charge what an error says was used, or shows of what was written; what shows neither by its status.

    `used` is what it says beside its error; `told`: of a stream, whose errors are noted, what came beside it. What it
    shows lowers no charge: it costs less than the hold only under a status that is free.
    """
    if told is not None and told.has_text and not told.is_last_word:
        # More was written than anybody has counted, in whatever place.
        await hold.settle_whole("upstream_failed")
        return
    if told is None:
        hold.failed(said, size_bytes=size_bytes)
    hold.count.end_untold()
    shown, work = await count(hold, turn, in_200=isinstance(answer, upstream.StatedRefusal))
    is_free = upstream.shows_no_work(answer) and not forbidden.is_billed(said)
    if (used := usage.larger(used, shown)) is not None:
        await hold.settle_reported(used)
    elif is_free and work.text_bytes and not work.is_told and hold.quote.answers == 1:
        await hold.settle_seen("upstream_failed")
    elif is_free and not (work.is_told or work.text_bytes or hold.was_told):
        await (hold.settle_told() if hold.has_price else hold.release())
    else:
        await hold.settle_whole("upstream_failed")
