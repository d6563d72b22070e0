"""Tokens of a text as its model's own tokenizer counts them, in place of its bytes; never fewer than truly. Pure.

Two facts make a count of parts one of the whole. Between a letter and the blanks after it, and between the end of a
line and the letter after it, every tokenizer of this kind (bytes merged in pairs) begins anew: at such a seam a text
may be cut, and the parts counted one by one. And no text has more tokens than bytes: what cannot be counted counts as
its bytes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

# Where no token reaches across, and none depends on what is on the other side. ASCII's blanks alone, and no run of
# them: about others tokenizers differ, and some split the last of a run off for what follows.
SEAM = re.compile(r"(?<=[^\W\d_])(?=[ \t\r\n])|(?<=\S\n)(?=[^\W\d_])")
# Characters that are counted at once. A text without a seam for twice as long is no language: it may take a tokenizer
# long, and counts by its bytes.
CHUNK = 2_048
LONGEST_CHUNK = 2 * CHUNK
# Of one call. What is beyond counts by its bytes, so that no call keeps a processor for long.
MOST_BYTES = 1_048_576
# A model may write a text in other tokens than its tokenizer would: of so many tokens one is one too few at most.
SAMPLED_SHARE = 32
# Halves of characters, and what takes the place of bytes that are none: tokens that nobody can tell from the text.
_NO_TEXT = re.compile("[\ud800-\udfff\ufffd]")
# With these alone, and a temperature of at most 1, a model writes as it would: words in whole tokens. Others forbid
# tokens, force them, cut some off unseen or make rare ones likely.
_PLAIN_FIELDS = frozenset(
    """model messages prompt suffix max_tokens max_completion_tokens stream stream_options n temperature top_p seed
    random_seed user metadata safe_prompt tools tool_choice parallel_tool_calls logprobs top_logprobs store
    prompt_cache_key safety_identifier service_tier""".split()  # noqa: SIM905
)
_PENALTIES = ("presence_penalty", "frequency_penalty")


class Tokenizer(Protocol):
    """Counts as one model does. `name` is what the ledger calls it."""

    @property
    def name(self) -> str: ...

    def count(self, text: str) -> int:
        """Tokens of a text that stands alone, marks in it read as text; at least as many as any reading of it has."""


def utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def tokens(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text that stands alone; never more than its bytes."""
    return sum(
        utf8_bytes(chunk)
        if len(chunk) > LONGEST_CHUNK or _NO_TEXT.search(chunk)
        else min(tokenizer.count(chunk), utf8_bytes(chunk))
        for chunk in _chunks(text)
    )


def tokens_within(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text at most, whatever a template puts before and behind it; never more than its bytes.

    Only what is before the first seam and behind the last can make other tokens there than alone.
    """
    first = SEAM.search(text)
    if first is None:
        return utf8_bytes(text)
    start = first.start()
    stop = _last_seam(text)
    return utf8_bytes(text[:start]) + tokens(tokenizer, text[start:stop]) + utf8_bytes(text[stop:])


def saved_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> int:
    """How many tokens fewer than bytes a request's texts have in any template, at least: of MOST_BYTES of them."""
    saved, left = 0, MOST_BYTES
    for text in texts:
        size = utf8_bytes(text)
        if size <= left:
            left -= size
            saved += size - tokens_within(tokenizer, text)
    return saved


def answer_tokens(tokenizer: Tokenizer, texts: Mapping[Any, Sequence[str]]) -> int:
    """Tokens that a model wrote texts in, at most. A text is the pieces that it came in: mostly a token each."""
    total = sum(_text_tokens(tokenizer, pieces) for pieces in texts.values())
    return total + -(-total // SAMPLED_SHARE)


def _text_tokens(tokenizer: Tokenizer, pieces: Sequence[str]) -> int:
    """The larger of two counts. A piece is at least a token, so pieces show where a model chose smaller ones.

    One without text is, too: part of a character whose rest was to come.
    """
    by_piece = sum(max(1, tokens(tokenizer, piece)) * times for piece, times in Counter(pieces).items())
    return max(by_piece, tokens(tokenizer, "".join(pieces)))


def is_plainly_sampled(payload: Mapping[str, Any]) -> bool:
    """Whether a request leaves it to the model which tokens it writes, so that its text tells how many there were."""
    steered = {name for name, value in payload.items() if value is not None} - _PLAIN_FIELDS
    if any(name not in _PENALTIES or payload[name] != 0 for name in steered):
        return False
    return all(_is_share(payload.get(name)) for name in ("temperature", "top_p"))


def _is_share(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and 0 <= value <= 1)


def _chunks(text: str) -> Iterator[str]:
    """The text, cut at seams."""
    start = 0
    while len(text) - start > CHUNK:
        seam = SEAM.search(text, start + CHUNK)
        stop = len(text) if seam is None else seam.start()
        yield text[start:stop]
        start = stop
    if start < len(text):
        yield text[start:]


def _last_seam(text: str) -> int:
    """Where the last seam of a text is that has one."""
    span = CHUNK
    while True:
        start = max(0, len(text) - span)
        found = list(SEAM.finditer(text, start))
        if found:
            return found[-1].start()
        span *= 4
