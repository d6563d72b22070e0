"""A small tokenizer of the kind that models have: words found by an expression, then bytes merged in pairs."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

# As GPT-2 finds words, and as newer ones do: numbers in threes, line ends with the blanks before them.
OLD_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?(?:[^\w\s]|_)+|\s+(?!\S)|\s+"
NEW_WORDS = r"(?:[^\r\n\w]|_)?[^\W\d_]+(?:'(?:s|t|re))?|\d{1,3}| ?(?:[^\s\w]|_)+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The same for engines that know Unicode's classes.
TEKKEN_WORDS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LEARNED_FROM = (
    "The model reads the text and the text is what the model reads. Tokens are the pieces that the model reads.\n"
    "Whoever counts the tokens of the text counts what the model is paid for.  And then, \n\nthe end of the text.\n"
    # What makes seams matter: numbers that are cut in threes, and line ends that take the blanks before them along.
    "There are 123456 or 123456 of them \n and 123456 more \n for the reader.\n"
)


class PairTokenizer:
    """See `llm.rules.exact_count.Tokenizer`. `name` is what it is called."""

    def __init__(self, *, words: str = NEW_WORDS, merges: int = 160, name: str = "pairs") -> None:
        self.name = name
        self._words = re.compile(words)
        self.ranks = learned(self._words.findall(LEARNED_FROM), merges=merges)
        self.counted: list[str] = []

    def count(self, text: str) -> int:
        self.counted.append(text)
        return len(self.tokens(text))

    def tokens(self, text: str) -> list[bytes]:
        return [token for word in self._words.findall(text) for token in self._merged(word.encode())]

    def _merged(self, word: bytes) -> list[bytes]:
        parts = [bytes([byte]) for byte in word]
        while len(parts) > 1:
            rank, at = min((self.ranks.get(parts[i] + parts[i + 1], 10**9), i) for i in range(len(parts) - 1))
            if rank == 10**9:
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return parts


def learned(words: Iterable[str], *, merges: int) -> dict[bytes, int]:
    """Each byte, and the pairs that are most frequent in some words: token -> rank."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    split = [[bytes([byte]) for byte in word.encode()] for word in words]
    for _ in range(merges):
        pairs = Counter(pair for parts in split for pair in pairwise(parts))
        if not pairs:
            break
        (left, right), _ = max(pairs.items(), key=lambda item: (item[1], item[0]))
        ranks.setdefault(left + right, len(ranks))
        for parts in split:
            at = 0
            while at < len(parts) - 1:
                if (parts[at], parts[at + 1]) == (left, right):
                    parts[at : at + 2] = [left + right]
                at += 1
    return ranks


def write_tekken(path: Path, **config: Any) -> Path:
    """A file as Mistral's are, small. `config` overrides what is in it."""
    ranks = PairTokenizer().ranks
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    more = [b"never", b" used"]
    data = {
        "config": {
            "pattern": TEKKEN_WORDS,
            "default_vocab_size": len(ranks) + len(marks),
            "default_num_special_tokens": len(marks),
            "version": "v7",
        },
        "vocab": [
            {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
            for rank, token in enumerate([*ranks, *more])
        ],
        "special_tokens": [{"rank": rank, "token_str": mark, "is_control": True} for rank, mark in enumerate(marks)],
    }
    path.write_text(json.dumps(data | config))
    return path
