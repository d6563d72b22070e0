"""The tokenizers that the owner ties to models (TOKENIZERS), and the thread that counts with them.

Only the owner's word ties one to a model: nothing is guessed, nothing is fetched. A file that cannot be counted with
exactly stops the start. One whose count is proved too small by what its model reports is no longer used.

`tekken.json` is read by tiktoken, as Mistral's own library does, `tokenizer.json` by Hugging Face's tokenizers; both
come with the extra `tokenizers`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import os
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from llm.catalogue.snapshot import Catalogue
from llm.rules.exact_count import SEAM, Tokenizer, utf8_bytes
from llm.rules.pricing import Entry

log = logging.getLogger(__name__)

Encode = Callable[[str], list[int]]

# Counted at once: two milliseconds or so. Longer texts are counted in the thread, which has so long for it.
AT_ONCE_BYTES = 4_096
PATIENCE_S = 0.5
# Marks of tekken's files that list none.
_FIRST_MARKS = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "<pad>", "[PREFIX]", "[MIDDLE]", "[SUFFIX]"),
)
# Of everything that tokenizers are known to differ in: blanks and lines, signs, numbers, cases, accents, scripts.
SAMPLE = (
    "We'll MEET at 12:30,  said   the man;\r\n\r\nthen\the left: 1234567 steps \n  and\n\n\nno more.\n"
    "def f(x):\n    return x['a'] + 1  # why?\nL\u2019\u00e9t\u00e9 \u2014 na\u00efve cr\u00e8me "
    "\u041f\u0440\u0438\u0432\u0435\u0442 \u4f60\u597d\u3002\n\u4e16\u754c \U0001f389 ok "
    "\u0645\u0631\u062d\u0628\u0627 end "
)
_BLANK = "\u2581"
_BLANKS_AS_MARKS = {"type": "Replace", "pattern": {"String": " "}, "content": _BLANK}


class TokenizerError(Exception):
    """A tokenizer that was named cannot be used: the message names the model, the file, and why."""


class Tokenizers:
    """Which model has which tokenizer; `by_model` goes by the catalogue's ids."""

    def __init__(self, by_model: Mapping[str, Tokenizer]) -> None:
        self._by_model = dict(by_model)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizers")

    def of(self, entry: Entry | None) -> Tokenizer | None:
        """What counts as a model does; None where nobody has said."""
        return None if entry is None else self._by_model.get(entry.id)

    def at(self, provider: str, catalogue: Catalogue) -> set[Tokenizer]:
        """Those of a provider's models."""
        entries = ((catalogue.resolve(id), tokenizer) for id, tokenizer in self._by_model.items())
        return {tokenizer for entry, tokenizer in entries if entry is not None and entry.provider == provider}

    def distrust(self, entry: Entry) -> None:
        """A model has reported more input than its tokenizer counted at most: it counts by bytes again."""
        if self._by_model.pop(entry.id, None) is not None:
            log.error("%s reads more tokens than its tokenizer counts: it is counted by bytes from now on", entry.id)

    async def count(self, work: Callable[[], int], *, text_bytes: int) -> int | None:
        """What `work` counts of so many bytes, in the thread where that takes time; None where it takes too much."""
        if text_bytes <= AT_ONCE_BYTES:
            return work()
        counting = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await counting
        except TimeoutError:
            return None

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)


def load(files: Mapping[str, Path], *, known: Mapping[str, str]) -> Tokenizers:
    """Read the files of models. `known` has each name of the catalogue, and its model's id. Raises TokenizerError."""
    by_model: dict[str, Tokenizer] = {}
    by_path: dict[Path, Tokenizer] = {}
    for model, path in files.items():
        if model not in known:
            raise TokenizerError(f"TOKENIZERS: {model}={path}: the catalogue has no model {model!r}.")
        if path not in by_path:
            try:
                by_path[path] = read(path)
            except TokenizerError as error:
                raise TokenizerError(f"TOKENIZERS: {model}={path}: {error}") from error
        if by_model.setdefault(known[model], by_path[path]) is not by_path[path]:
            raise TokenizerError(f"TOKENIZERS: {model}={path}: {known[model]} has another tokenizer already.")
    return Tokenizers(by_model)


def read(path: Path) -> Tokenizer:
    """The tokenizer of a file. Raises TokenizerError for one that cannot be counted with exactly."""
    try:
        data = orjson.loads(path.read_bytes())
    except OSError as error:
        raise TokenizerError(f"it cannot be read: {error.strerror}.") from error
    except orjson.JSONDecodeError as error:
        raise TokenizerError(f"it is no JSON: {error}.") from error
    try:
        if isinstance(data, dict) and isinstance(data.get("vocab"), list):
            return _tekken(path.name, data)
        if isinstance(data, dict) and isinstance(data.get("model"), dict):
            return _hugging_face(path.name, data)
    except ModuleNotFoundError as error:
        raise TokenizerError(f"{error.name} is missing: install the extra, spend-governor[tokenizers].") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokenizerError(f"it is not as such files are: {error!r}.") from error
    raise TokenizerError("it is neither a tekken.json nor a tokenizer.json.")


class _Encoder:
    """Counts what `encode` makes of a text; as bytes where that has marks in it, which nobody knows how it is read."""

    def __init__(self, name: str, encode: Encode, *, marks: frozenset[int], composes: bool = False) -> None:
        self.name = name
        self._encode = encode
        self._marks = marks
        # It makes one character of a letter and its accent, and sometimes three of one.
        self._composes = composes

    def count(self, text: str) -> int:
        """See `llm.rules.exact_count.Tokenizer`. Never more than the text's bytes."""
        # Many marks in a row take for ever to be brought into order.
        marked = self._composes and any(map(unicodedata.combining, set(text)))
        if marked or (self._composes and not unicodedata.is_normalized("NFC", text)):
            return utf8_bytes(text)
        try:
            ids = self._encode(text)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException:
            # These libraries panic where others raise. What they cannot count, its bytes bound.
            log.warning("%s could not count a text", self.name, exc_info=True)
            return utf8_bytes(text)
        return min(len(ids), utf8_bytes(text)) if self._marks.isdisjoint(ids) else utf8_bytes(text)


def _tekken(name: str, data: dict[str, Any]) -> Tokenizer:
    import tiktoken

    config = data["config"]
    mark_count = config["default_num_special_tokens"]
    # The file has more tokens than the model.
    ranks = {
        base64.b64decode(token["token_bytes"], validate=True): token["rank"]
        for token in data["vocab"][: config["default_vocab_size"] - mark_count]
    }
    listed = data.get("special_tokens")
    marks = _FIRST_MARKS if listed is None else [mark["token_str"] for mark in listed]
    _check_bytes([token for token in ranks if len(token) == 1])
    _check_seams([*marks, *(token.decode(errors="replace") for token in ranks)])
    first = max(ranks.values()) + 1
    by_mark = {mark: first + place for place, mark in enumerate(marks)}
    encoding = tiktoken.Encoding(name, pat_str=config["pattern"], mergeable_ranks=ranks, special_tokens=by_mark)
    encode = partial(encoding.encode, allowed_special="all", disallowed_special=())
    _check_sample(encode)
    return _Encoder(name, encode, marks=frozenset(by_mark.values()))


def _hugging_face(name: str, data: dict[str, Any]) -> Tokenizer:
    # Its threads would outnumber ours; one text at a time is counted.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import tokenizers

    model = data["model"]
    if model.get("type", "BPE") != "BPE" or model.get("dropout"):
        raise TokenizerError("it does not merge pairs of bytes (BPE), or does so by chance: its count bounds nothing.")
    composes = _without_prefix(data)
    try:
        tokenizer = tokenizers.Tokenizer.from_str(orjson.dumps(data).decode())
    except Exception as error:
        raise TokenizerError(f"it is not as such files are: {error}.") from error
    # Of an end that was cut off, or made longer, nothing is to be counted.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    added = tokenizer.get_added_tokens_decoder()
    if model.get("byte_fallback"):
        _check_bytes(vocabulary.keys() & {f"<0x{byte:02X}>" for byte in range(256)})
        texts = [token.replace(_BLANK, " ") for token in vocabulary]
    else:
        _check_bytes(vocabulary.keys() & set(tokenizers.pre_tokenizers.ByteLevel.alphabet()))
        letters = tokenizers.decoders.ByteLevel()
        texts = [letters.decode([token]) for token in vocabulary]
    _check_seams([*texts, *(token.content for token in added.values())])

    def encode(text: str) -> list[int]:
        # Unlike its kin, this one lets other threads run meanwhile.
        ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    marks = frozenset(id for id, token in added.items() if token.special)
    _check_sample(encode)
    return _Encoder(name, encode, marks=marks, composes=composes)


def _without_prefix(data: dict[str, Any]) -> bool:
    """Take out the blank that some put before a text: parts are counted, and only the first would have one.

    Whether it composes characters. Raises TokenizerError where it changes texts in other ways, which may lengthen them.
    """
    found = data.get("normalizer")
    steps = [] if found is None else found["normalizers"] if found["type"] == "Sequence" else [found]
    kept = [step for step in steps if step != {"type": "Prepend", "prepend": _BLANK}]
    if unknown := [step["type"] for step in kept if step["type"] != "NFC" and step != _BLANKS_AS_MARKS]:
        raise TokenizerError(f"it changes texts before it counts them ({unknown[0]}): its count bounds nothing.")
    data["normalizer"] = {"type": "Sequence", "normalizers": kept} if kept else None
    found = data.get("pre_tokenizer")
    for step in [] if found is None else found["pretokenizers"] if found["type"] == "Sequence" else [found]:
        if step["type"] == "Metaspace":
            step["prepend_scheme"] = "never"
        if step["type"] == "ByteLevel":
            step["add_prefix_space"] = False
    return any(step["type"] == "NFC" for step in kept)


def _check_bytes(found: Collection[Any]) -> None:
    if len(found) != 256:
        raise TokenizerError("it has no token for every byte, so texts may have more tokens than it counts.")


def _check_seams(texts: Iterable[str]) -> None:
    across = next((text for text in texts if SEAM.search(text)), None)
    if across is not None:
        raise TokenizerError(f"its token {across!r} reaches across words, so its counts of parts bound nothing.")


def _check_sample(encode: Encode) -> None:
    """The parts of a text have as many tokens as all of it, and each sign one, as far as one text can show it."""
    if not all(map(encode, SAMPLE)):
        raise TokenizerError("it has no token for some signs, so texts have more tokens than it counts.")
    cuts = [0, *(seam.start() for seam in SEAM.finditer(SAMPLE)), len(SAMPLE)]
    parts = sum(len(encode(SAMPLE[start:stop])) for start, stop in pairwise(cuts))
    if len(encode(SAMPLE)) > parts:
        raise TokenizerError("parts of a text have fewer tokens than the whole, so its counts bound nothing.")
