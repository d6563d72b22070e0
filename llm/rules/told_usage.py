"""What an answer says was used, of the whole call or of some of its answers by themselves. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from governance.rules.calls import Usage
from llm.rules import usage

# Counts of some answers, and answers, that are kept apart; nobody asks for as many.
MOST_KEPT = 256


class ToldUsage:
    """Puts together what the parts of one answer say, as they come; of so many answers, or of those that are seen.

    Some count each answer by itself. What is known of some of them only is a least, and no usage of the call.
    """

    def __init__(self, answers: int) -> None:
        self._answers = answers
        self._seen: set[int] = set()
        # The most that was said of the whole call, and of these answers; and which answers have their count.
        self._whole: Usage | None = None
        # The same, of counts that came with the ends of some answers; and of which: they may be of these alone.
        self._beside: Usage | None = None
        self._beside_answers: set[frozenset[int]] = set()
        self._parts: dict[frozenset[int], Usage] = {}
        self._counted: set[int] = set()
        self._is_crowded = False
        # What each of these counted last, and whether one of them came to less than before: a piece, perhaps.
        self._last: dict[frozenset[int] | None, Usage] = {}
        self.has_shrunk = False

    def took(self, answer: Mapping[str, Any], said: Usage | None, least: Usage | None) -> Usage | None:
        """The usage of the call by what this part says of it; None where it says nothing, or others lack theirs.

        `said` is what it says was used, `least` what it says was used at the least.
        """
        places = usage.answer_places(answer)
        if len(self._seen) < MOST_KEPT:
            self._seen.update(places)
        found = said or least
        if found is None:
            return None
        of = usage.counted_answers(answer)
        is_beside = of is None and 0 < len(places) < self._answers
        if said is not None:
            self._compare(frozenset(places) if is_beside else of, said)
        if is_beside:
            self._beside = usage.larger(self._beside, found)
            if found.output_tokens and len(self._beside_answers) < MOST_KEPT:
                self._beside_answers.add(frozenset(places))
            return None if self.untold_answers else said
        if of is None:
            self._whole = usage.larger(self._whole, found)
            return said
        self._keep(of, found)
        if said is not None:
            self._counted |= of
        return None if self.untold_answers else usage.together(self._parts.values())

    def _compare(self, of: frozenset[int] | None, said: Usage) -> None:
        """A count of all so far only grows. One that does not may be of what came since the one before it."""
        last = self._last.get(of, said)
        self.has_shrunk |= said.input_tokens < last.input_tokens or said.output_tokens < last.output_tokens
        if of in self._last or len(self._last) < MOST_KEPT:
            self._last[of] = said

    def _keep(self, of: frozenset[int], found: Usage) -> None:
        """A count of several answers takes the place of those of each of them, and is never smaller."""
        of = next((answers for answers in self._parts if of < answers), of)
        inside = [answers for answers in self._parts if answers <= of]
        if not inside and len(self._parts) >= MOST_KEPT:
            self._is_crowded = True
            return
        earlier = usage.together([self._parts.pop(answers) for answers in inside])
        self._parts[of] = usage.larger(earlier, found) or found

    @property
    def least(self) -> Usage | None:
        """All that was said so far."""
        of_call = usage.larger(self._whole, self._beside)
        return usage.larger(of_call, usage.together(self._parts.values()))

    @property
    def untold_answers(self) -> int:
        """Answers whose count nobody has said, where others have theirs; 0 where all are counted, or none by itself."""
        parts = usage.together(self._parts.values())
        if len(self._beside_answers) > 1 and _output(self._whole) < _output(self._beside):
            # Of the call each time, or of one answer each: nobody knows.
            return self._answers - 1
        if parts is None or max(_output(self._whole), _output(self._beside)) >= parts.output_tokens:
            return 0
        missing = max(self._answers, len(self._seen)) - len(self._counted)
        # One that is counted in two places stands for another: whose count it is nobody knows.
        is_doubtful = self._is_crowded or sum(map(len, self._parts)) > len(frozenset[int]().union(*self._parts))
        return max(missing, int(is_doubtful))


def _output(found: Usage | None) -> int:
    return -1 if found is None else found.output_tokens
