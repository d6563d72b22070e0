"""Tokenizers from files: which are taken, what they count, and that nothing is taken on trust."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm.catalogue.snapshot import Catalogue
from llm.rules import exact_count
from llm.rules.exact_count import SEAM, Tokenizer
from llm.rules.pricing import Entry
from llm.state import tokenizers
from llm.state.tokenizers import AT_ONCE_BYTES, TokenizerError, Tokenizers
from tests.fakes.pair_tokenizer import LEARNED_FROM, TEKKEN_WORDS, PairTokenizer, write_tekken
from tests.llm.rules.test_exact_count import MORSELS, TEXTS

SMALL = Entry(id="small", names=frozenset({"small"}))
ELSEWHERE = Entry(id="groq/llama", names=frozenset({"groq/llama"}), provider="groq")
REASON = "the extra `tokenizers` is not installed: make .venv/tokenizers.installed"


@pytest.fixture(scope="session")
def extra() -> None:
    """Skips where the extra is missing; with REQUIRE_TOKENIZERS=1 that is a failure."""
    if not (find_spec("tiktoken") and find_spec("tokenizers")):
        if os.environ.get("REQUIRE_TOKENIZERS") == "1":
            pytest.fail(REASON)
        pytest.skip(REASON)


def hugging_face(**changes: Any) -> dict[str, Any]:
    """The content of a tokenizer.json as byte-level models have, small; `changes` replace parts of it."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(TEKKEN_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [LEARNED_FROM] * 3,
        trainers.BpeTrainer(
            vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>", "[INST]"], show_progress=False
        ),
    )
    return json.loads(made.to_str()) | changes


def blanks_as_marks(**changes: Any) -> dict[str, Any]:
    """As models have that know blanks by a sign, and bytes by name: Llama 2 and its kin."""
    vocabulary = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256)), *"\u2581abcdehilnorstwx."]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "\u2581"), ("e", "n"), ("the", "n")]
    vocabulary += [left + right for left, right in merges]
    return {
        "version": "1.0",
        "added_tokens": [
            {"id": 1, "content": "<s>", "special": True}
            | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "byte_fallback": True,
            "fuse_unk": True,
            "unk_token": "<unk>",
            "vocab": {token: id for id, token in enumerate(dict.fromkeys(vocabulary))},
            "merges": [list(merge) for merge in merges],
        },
    } | changes


@pytest.fixture(scope="session", params=["tekken", "byte_level", "blanks_as_marks", "composing"])
def tokenizer(request: pytest.FixtureRequest, extra: None, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("tokenizers") / f"{request.param}.json"
    if request.param == "tekken":
        write_tekken(path)
    elif request.param == "blanks_as_marks":
        path.write_text(json.dumps(blanks_as_marks()))
    else:
        changes = {"normalizer": {"type": "NFC"}} if request.param == "composing" else {}
        path.write_text(json.dumps(hugging_face(**changes)))
    return tokenizers.read(path)


class TestCount:
    def test_words_that_it_knows_are_few_tokens(self, tokenizer):
        assert 0 < tokenizer.count(" the then") < len(" the then") / 2
        assert tokenizer.count("") == 0

    @given(text=TEXTS | st.text())
    def test_no_text_has_more_tokens_than_bytes(self, tokenizer, text):
        assert 0 <= tokenizer.count(text) <= len(text.encode())

    @given(text=TEXTS)
    def test_cut_at_its_seams_a_text_has_no_fewer_tokens_than_whole(self, tokenizer, text):
        cuts = [0, *(seam.start() for seam in SEAM.finditer(text)), len(text)]
        parts = [text[start:stop] for start, stop in pairwise(cuts)]
        whole = tokenizer.count(text)
        # Of composed characters, and with marks, the whole counts by its bytes where not all of its parts need.
        assert sum(map(tokenizer.count, parts)) >= whole or whole == exact_count.utf8_bytes(text)

    @given(before=TEXTS, text=TEXTS, after=TEXTS)
    def test_a_text_has_no_more_tokens_within_others_than_are_counted(self, tokenizer, before, text, after):
        size = exact_count.utf8_bytes
        around = before + text + after
        if "<s>" in around or "[INST]" in around:
            # Not counted, but bounded by bytes.
            return
        counted = exact_count.tokens_within(tokenizer, text)
        # Of composed characters the whole may count by its bytes where the parts need not.
        assert tokenizer.count(around) <= size(before) + counted + size(after) or tokenizer.count(around) == size(
            around
        )

    @given(pieces=st.lists(MORSELS, max_size=40))
    def test_an_answer_has_no_more_tokens_than_are_counted(self, tokenizer, pieces):
        counted = exact_count.answer_tokens(tokenizer, {(0, "content"): pieces})
        assert counted >= tokenizer.count("".join(pieces)) or "<s>" in "".join(pieces)

    @pytest.mark.parametrize("mark", ["<s>"])
    def test_a_mark_in_a_text_makes_it_count_by_its_bytes(self, tokenizer, mark):
        text = f" the then{mark} the"
        assert tokenizer.count(text) == len(text)

    def test_hard_texts_take_no_time(self, tokenizer):
        for unit in ("a", " ", "\n", "<", "<s>", "the ", ".\na", "\u0301", "\U0001f389", " \n", "1"):
            text = (unit * 300_000)[:300_000]
            began = time.perf_counter()
            counted = exact_count.tokens(tokenizer, text)
            # Half a second on a machine that does other things meanwhile.
            assert time.perf_counter() - began < 3
            assert counted <= len(text.encode())

    def test_texts_that_cannot_be_encoded_count_by_their_bytes(self, tokenizer):
        assert tokenizer.count("a\ud800") <= exact_count.utf8_bytes("a\ud800")


class TestFiles:
    def test_of_a_tekken_file_the_models_own_tokens_count_alone(self, extra, tmp_path):
        read = tokenizers.read(write_tekken(tmp_path / "tekken.json"))
        # "never" is in the file, behind what the model has.
        assert read.count("never") > 1
        assert read.name == "tekken.json"
        old = tokenizers.read(write_tekken(tmp_path / "old.json", special_tokens=None))
        assert old.count("[TOOL_CALLS]") == len("[TOOL_CALLS]")

    def test_a_length_in_the_file_cuts_no_count_off(self, extra, tmp_path):
        path = tmp_path / "tokenizer.json"
        cut = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
        path.write_text(json.dumps(hugging_face(truncation=cut)))
        assert tokenizers.read(path).count("x" * 100) == 100

    def test_no_blank_is_put_before_a_part(self, extra, tmp_path):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(blanks_as_marks()))
        assert tokenizers.read(path).count("the") == tokenizers.read(path).count(" the") == 1
        steps = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
        path.write_text(json.dumps(blanks_as_marks(normalizer=None, pre_tokenizer=steps)))
        assert tokenizers.read(path).count("the") == 1
        byte_level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        path.write_text(json.dumps(hugging_face(pre_tokenizer=byte_level)))
        assert tokenizers.read(path).count("x") == 1

    def test_a_character_that_composing_lengthens_counts_by_its_bytes(self, extra, tmp_path):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(hugging_face(normalizer={"type": "NFC"})))
        assert tokenizers.read(path).count("\U0001d160") == 4

    @pytest.mark.parametrize(
        ("content", "wanted"),
        [
            (b"", "it is no JSON"),
            (b"\xff{}", "it is no JSON"),
            (b"[]", "neither a tekken.json nor a tokenizer.json"),
            (b'{"vocab": {}}', "neither a tekken.json nor a tokenizer.json"),
        ],
    )
    def test_what_is_no_tokenizer_says_so(self, tmp_path, content, wanted):
        path = tmp_path / "some.json"
        path.write_bytes(content)
        with pytest.raises(TokenizerError, match=wanted):
            tokenizers.read(path)
        with pytest.raises(TokenizerError, match="cannot be read"):
            tokenizers.read(tmp_path / "none.json")

    @pytest.mark.parametrize(
        ("changes", "wanted"),
        [
            ({"vocab": []}, "no token for every byte"),
            ({"vocab": [{"rank": 0}]}, "not as such files are"),
            ({"config": {}}, "not as such files are"),
            ({"special_tokens": [{"token_str": "<a mark>"}]}, "reaches across words"),
        ],
    )
    def test_a_tekken_file_that_bounds_nothing_is_refused(self, extra, tmp_path, changes, wanted):
        with pytest.raises(TokenizerError, match=wanted):
            tokenizers.read(write_tekken(tmp_path / "tekken.json", **changes))

    def test_a_tekken_token_across_words_is_refused(self, extra, tmp_path):
        path = write_tekken(tmp_path / "tekken.json")
        data = json.loads(path.read_text())
        data["vocab"][300]["token_bytes"] = "YSBi"  # "a b"
        path.write_text(json.dumps(data))
        with pytest.raises(TokenizerError, match="'a b' reaches across words"):
            tokenizers.read(path)

    @pytest.mark.parametrize(
        ("changes", "wanted"),
        [
            ({"model": {"type": "Unigram", "vocab": []}}, r"merge pairs of bytes \(BPE\)"),
            ({"model": {"type": "BPE", "dropout": 0.5}}, r"merge pairs of bytes \(BPE\)"),
            ({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}, "no token for every byte"),
            ({"model": {"type": "BPE", "vocab": {}, "merges": [["a", "b"]]}}, "not as such files are"),
            ({"normalizer": {"type": "NFKC"}}, r"changes texts .*NFKC"),
            ({"normalizer": {"type": "Replace", "pattern": {"String": "a"}, "content": "bbb"}}, "Replace"),
            ({"normalizer": {}}, "not as such files are"),
        ],
    )
    def test_a_tokenizer_json_that_bounds_nothing_is_refused(self, extra, tmp_path, changes, wanted):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(hugging_face(**changes)))
        with pytest.raises(TokenizerError, match=wanted):
            tokenizers.read(path)

    def test_one_that_leaves_out_what_it_does_not_know_is_refused(self, extra, tmp_path):
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(hugging_face(pre_tokenizer=None)))
        with pytest.raises(TokenizerError, match="no token for some signs"):
            tokenizers.read(path)

    def test_one_whose_parts_have_fewer_tokens_than_the_whole_is_refused(self, extra, tmp_path, monkeypatch):
        path = write_tekken(tmp_path / "tekken.json")
        data = json.loads(path.read_text())
        # It cuts words where they happen to be, and does so anew in each part.
        data["config"]["pattern"] = r"(?s).{1,6}"
        path.write_text(json.dumps(data))
        monkeypatch.setattr(tokenizers, "SAMPLE", LEARNED_FROM)
        with pytest.raises(TokenizerError, match="fewer tokens than the whole"):
            tokenizers.read(path)

    @pytest.mark.parametrize("module", ["tiktoken", "tokenizers"])
    def test_without_the_extra_a_start_says_what_to_install(self, monkeypatch, tmp_path, module):
        monkeypatch.setitem(sys.modules, module, None)
        path = tmp_path / "tokenizer.json"
        write_tekken(path) if module == "tiktoken" else path.write_text(json.dumps(blanks_as_marks()))
        with pytest.raises(TokenizerError, match=rf"small={path}: {module} is missing: .*\[tokenizers\]"):
            tokenizers.load({"small": path}, known={"small": "small"})


class TestRegistry:
    def test_an_unknown_model_stops_the_start_with_both_names(self, tmp_path):
        path = tmp_path / "tekken.json"
        with pytest.raises(TokenizerError, match=f"^TOKENIZERS: smal={path}: the catalogue has no model 'smal'"):
            tokenizers.load({"smal": path}, known={"small": "small"})

    def test_a_bad_file_stops_the_start_with_both_names(self, tmp_path):
        path = tmp_path / "tekken.json"
        path.write_text("{}")
        with pytest.raises(TokenizerError, match=f"^TOKENIZERS: small={path}: it is neither"):
            tokenizers.load({"small": path}, known={"small": "small"})

    def test_models_share_a_file_and_names_a_model(self, extra, tmp_path):
        path, other = write_tekken(tmp_path / "tekken.json"), write_tekken(tmp_path / "other.json")
        known = {"small": "small", "latest": "small", "groq/llama": "groq/llama"}
        found = tokenizers.load({"small": path, "latest": path, "groq/llama": path}, known=known)
        assert found.of(SMALL) is found.of(ELSEWHERE) is not None
        with pytest.raises(TokenizerError, match=f"latest={other}: small has another tokenizer already"):
            tokenizers.load({"small": path, "latest": other}, known=known)

    def test_only_named_models_have_one(self):
        one, two = PairTokenizer(), PairTokenizer()
        found = Tokenizers({"small": one, "groq/llama": two, "retired": two})
        catalogue = Catalogue({"small": SMALL, "groq/llama": ELSEWHERE})
        assert found.of(Entry(id="mistral-eu/small", names=SMALL.names)) is found.of(None) is None
        assert (found.at("mistral", catalogue), found.at("groq", catalogue)) == ({one}, {two})

    def test_one_that_counted_too_little_is_used_no_more(self, caplog):
        found = Tokenizers({"small": PairTokenizer()})
        found.distrust(ELSEWHERE)
        assert found.of(SMALL)
        found.distrust(SMALL)
        found.distrust(SMALL)
        assert found.of(SMALL) is None
        assert len(caplog.records) == 1

    def test_long_texts_are_counted_in_another_thread(self):
        found = Tokenizers({})
        here = threading.get_ident()

        async def in_threads() -> list[int | None]:
            return [
                await found.count(threading.get_ident, text_bytes=AT_ONCE_BYTES),
                await found.count(threading.get_ident, text_bytes=AT_ONCE_BYTES + 1),
            ]

        at_once, later = asyncio.run(in_threads())
        found.close()
        assert at_once == here
        assert later not in (None, here)

    def test_what_takes_too_long_is_not_waited_for(self, monkeypatch):
        monkeypatch.setattr(tokenizers, "PATIENCE_S", 0.05)
        found, blocked = Tokenizers({}), threading.Event()

        async def waited() -> int | None:
            return await found.count(lambda: int(blocked.wait(10)), text_bytes=10**6)

        began = time.monotonic()
        assert asyncio.run(waited()) is None
        blocked.set()
        found.close()
        assert time.monotonic() - began < 5
