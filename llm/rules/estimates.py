"""What a call may use at most, and what it may cost at a model. Pure; `bounds` reads it off a request."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from governance.rules.decision import Quote
from governance.rules.overruns import ModelOverrun, Side
from llm.rules import pricing
from llm.rules.pricing import HIDDEN_PROMPT_TOKENS, UNKNOWN_IMAGE_TOKENS, Entry

# Needs for which providers put a prompt of their own before the client's.
PROMPTED = frozenset({"json", "reasoning", "safe_prompt"})
# Of a document or sound nobody here knows how long it is: it is held for at the most that is allowed.
UNMEASURED = "unmeasured"
# Of a call with pictures: what a model reads of them says nothing of calls that have none.
PICTURES = "pictures"
# What a model reads and writes at most whose context nobody has told us.
LONGEST_CONTEXT = 10_000_000
_NO_BOUND = {
    Side.OUTPUT: "{} writes more than `max_tokens`, and how much it may write is not known.",
    Side.INPUT: "{} reads more than it is sent, and how much it may read is not known.",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call may use at most. `text_tokens` is all input but pictures; `max_tokens` one answer of `n`."""

    kind: str
    text_tokens: int
    images: int = 0
    # None: the call writes nothing (embeddings, OCR).
    max_tokens: int | None = None
    n: int = 1
    needs: frozenset[str] = frozenset()
    unit: str = "token"
    units: int = 0
    # The input has no bound of its own: it counts as all that the model can read.
    whole_context: bool = False
    # So do pictures, at a model that has no bound for them.
    reserve_unbounded: bool = False
    # Those in `text_tokens` that are nothing but text: each is in there with its bytes, at least.
    texts: tuple[str, ...] = ()
    # What an input token may cost, in hundredths of its price: more where it may be written into a cache.
    input_e2: int = 100
    # Where `max_tokens` is a default: what a model that thinks may write beyond it.
    thinking_tokens: int = 0
    # What one answer may have beyond its length, because it was asked to think so much.
    tokens_beside: int = 0
    # Bytes of the request that each answer may begin with.
    echoed_bytes: int = 0
    # What is asked for that may lengthen an answer, by the words of `request_fields.lengthening`, or UNMEASURED; of a
    # sound, whose it is.
    asked: frozenset[str] = frozenset()
    # Bytes of an answer at most that are not shown before its end: they may become what it is to stop at.
    withheld_bytes: int = 0
    # The text of its answer does not tell how many tokens were written.
    hides: bool = False
    # How many inputs there are that a model reads each by itself.
    inputs: int = 1
    # The most that one call can use of what is not counted in tokens.
    most_units: int = 0
    # The largest answer of a model that passes its bound, where it concerns this call: nothing but the model ends it.
    overran_tokens: int = 0
    # The largest input, in the estimate's unit, of a model that reads more than it is sent.
    overread: int = 0

    @property
    def input_tokens(self) -> int:
        """The bound for a model of which nothing is known."""
        return self.text_tokens + self.images * UNKNOWN_IMAGE_TOKENS

    def input_tokens_at(self, entry: Entry) -> int:
        """The bound at a model that has one. Others than Mistral put a prompt of their own before tools."""
        if self._needs_whole_context(entry):
            return entry.context_tokens or 0
        hidden = HIDDEN_PROMPT_TOKENS if "tools" in self.needs and not entry.is_mistrals else 0
        return self.text_tokens + hidden + self._picture_tokens_at(entry)

    def max_tokens_at(self, entry: Entry) -> int | None:
        """Of one answer at a model: one that thinks, because it was asked to or by itself, has more by default."""
        thinks = "reasoning" in self.needs or hides_output(entry)
        tokens = self.max_tokens
        if tokens is not None and thinks:
            tokens += self.thinking_tokens
        if tokens is not None:
            tokens += self.tokens_beside
        return tokens if tokens is None or entry.context_tokens is None else min(tokens, entry.context_tokens)

    def held_tokens_at(self, entry: Entry) -> int | None:
        """What is held for of one answer: of a model that passes `max_tokens`, all that it may write."""
        asked = self.max_tokens_at(entry)
        return asked if asked is None or not self.overran_tokens else max(asked, entry.context_tokens or 0)

    def held_input_at(self, entry: Entry) -> int:
        """What is held for of the input: at a model that reads more than it is sent, all that it may read."""
        tokens = self.input_tokens_at(entry)
        return max(tokens, self.inputs * (entry.context_tokens or 0)) if self.overread else tokens

    @property
    def held_units(self) -> int:
        """Of what is not counted in tokens, as `held_input_at`."""
        return max(self.units, self.most_units) if self.overread else self.units

    @property
    def read_by(self) -> frozenset[str]:
        """What an overrun of the input concerns: what is asked for, and whether there are pictures."""
        return self.asked | {PICTURES} if self.images else self.asked

    def knowing(self, overruns: Iterable[ModelOverrun], place: str) -> Estimate:
        """The same call at a model, with what is known of answers and inputs beyond their bounds."""
        seen = {Side.INPUT: 0, Side.OUTPUT: 0}
        for one in overruns:
            if one.concerns(place, self.read_by):
                seen[one.side] = max(seen[one.side], one.tokens)
        written = 0 if self.max_tokens is None else seen[Side.OUTPUT]
        return replace(self, overran_tokens=written, overread=seen[Side.INPUT]) if any(seen.values()) else self

    def unbounded_at(self, entry: Entry) -> Side | None:
        """Of what a model passes each bound that is known; None where there is a most that the call may use.

        What is above the model's context shows that this is not what bounds it.
        """
        if self.overran_tokens and _is_beyond(self.overran_tokens, entry.context_tokens):
            return Side.OUTPUT
        most_read = entry.context_tokens if self.unit == "token" else self.most_units
        return Side.INPUT if self.overread and _is_beyond(self.overread, most_read) else None

    def _picture_tokens_at(self, entry: Entry) -> int:
        """Of all pictures: together they are no more than the model can read."""
        tokens = self.images * (entry.most_image_tokens or 0)
        return min(tokens, entry.context_tokens or tokens)

    def is_bounded_at(self, entry: Entry) -> bool:
        """Whether there is a most that the call can cost at a model."""
        if self.unbounded_at(entry) is not None:
            return False
        if not self._needs_whole_context(entry):
            return True
        return entry.context_tokens is not None and (self.whole_context or self.reserve_unbounded)

    def no_bound_at(self, entry: Entry) -> str:
        """Why there is none, as a sentence for whom the call is refused."""
        if (side := self.unbounded_at(entry)) is not None:
            return _NO_BOUND[side].format(entry.id)
        if self.whole_context or self.reserve_unbounded:
            return "This call's input has no bound, and the catalogue does not know how much the model can read."
        return f"What a picture costs at {entry.id} is not known: the catalogue may say it (tokens of an image)."

    def _needs_whole_context(self, entry: Entry) -> bool:
        return self.whole_context or (self.images > 0 and entry.most_image_tokens is None)

    def with_text(self, text_tokens: int, texts: tuple[str, ...] = ()) -> Estimate:
        """The same call, whose body at a provider holds so much text; the hidden prompts of its needs come on top."""
        hidden = HIDDEN_PROMPT_TOKENS if self.needs & PROMPTED else 0
        return replace(self, text_tokens=text_tokens + hidden, texts=texts)

    def with_saved(self, saved_tokens: int, entry: Entry) -> Estimate:
        """The same call, whose `texts` have so many tokens fewer than bytes at a model.

        Others than Mistral may put a prompt of their own before the client's, which is in no text.
        """
        hidden = 0 if entry.is_mistrals else HIDDEN_PROMPT_TOKENS
        return replace(self, text_tokens=self.text_tokens - max(0, saved_tokens - hidden))

    def likely_input_at(self, entry: Entry) -> int:
        """Too long a call is refused by the model, for nothing: its pictures are taken for what such mostly are."""
        return self.input_tokens_at(entry) - max(0, self._picture_tokens_at(entry) - self.images * UNKNOWN_IMAGE_TOKENS)

    def lacks(self, entry: Entry) -> frozenset[str]:
        """What the call needs and the model cannot do; "context" where it is too long for it in the worst case."""
        missing = self.needs - entry.abilities
        if self.kind not in entry.kinds:
            missing |= {self.kind}
        if not self.is_bounded_at(entry):
            missing |= {"bound"}
        whole_tokens = self.likely_input_at(entry) + (self.max_tokens or 0)
        if entry.context_tokens is not None and whole_tokens > entry.context_tokens:
            missing |= {"context"}
        return missing


def quote(estimate: Estimate, entry: Entry | None, *, model: str) -> Quote | None:
    """The price of the estimated call at one model, asked for as `model`; None where it has none.

    Only chats may be moved to another model; a capable one can do all that the call needs. `max_tokens` of a quote is
    at most the model's context: what the gateway must send upstream for the bound to hold.
    """
    if entry is None or not estimate.is_bounded_at(entry):
        return None
    capable = estimate.kind == "chat" and not estimate.lacks(entry)
    if estimate.unit != "token":
        return pricing.quote_units(entry, model=model, unit=estimate.unit, units=estimate.held_units, capable=capable)
    return pricing.quote_tokens(
        entry,
        model=model,
        # What is written into a cache is charged as that many more tokens.
        input_tokens=-(-estimate.held_input_at(entry) * estimate.input_e2 // 100),
        max_tokens=estimate.held_tokens_at(entry),
        n=estimate.n,
        capable=capable,
        asked_tokens=estimate.max_tokens_at(entry),
    )


def hides_output(entry: Entry) -> bool:
    """Whether a model may write tokens that its stream does not show, so that nobody can count along."""
    return "reasoning" in entry.capabilities and not entry.is_mistrals


def _is_beyond(seen: int, most: int | None) -> bool:
    return most is None or most < seen
