"""What a 403 is about."""

from __future__ import annotations

import pytest

from llm.rules import forbidden
from llm.rules.forbidden import About, about


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"message": "The guardrail refused the input"}', About.REQUEST),
        (b'{"error": {"metadata": {"flagged_input": "bombs"}}}', About.REQUEST),
        (b'{"error": "content_filter"}', About.REQUEST),
        (b'{"error": {"type": "content_filter", "message": "Forbidden"}}', About.REQUEST),
        (b'{"error": {"code": "content_policy_violation", "message": "Forbidden"}}', About.REQUEST),
        (b'{"detail": "Your prompt was blocked"}', About.REQUEST),
        (b'{"error": {"message": "Your API key may not call this model"}}', About.KEY),
        (b'{"error": "No access from this region", "code": 5}', About.KEY),
        (b'{"message": "Forbidden"}', About.UNCLEAR),
        (b"<html>guardrail</html>", About.UNCLEAR),
        (b"[]", About.UNCLEAR),
        (b"", About.UNCLEAR),
    ],
)
def test_it_is_about_the_request_or_the_key_only_if_it_says_so(body: bytes, found: About) -> None:
    assert about(body) is found


@pytest.mark.parametrize(
    "name", ["guardrails", "guardrail", "flagged_input", "moderation", "content_filter_result", "reasons"]
)
def test_whatever_a_moderation_found_is_about_the_request(name: str) -> None:
    assert about(b'{"%s": ["violence"]}' % name.encode()) is About.REQUEST
    assert about(b'{"error": {"metadata": {"%s": "violence"}}}' % name.encode()) is About.REQUEST
    # Nothing was found.
    assert about(b'{"%s": [], "message": "Wrong API key"}' % name.encode()) is About.KEY


@pytest.mark.parametrize(
    "words",
    """guardrail moderated flagged content-policy content_filter prompt-injection jailbreak unsafe harmful safety
    request_is_blocked prompt_was_rejected messages_were_refused input_blocked""".split(),  # noqa: SIM905
)
def test_words_about_the_request(words: str) -> None:
    body = b'{"message": "%s, whatever key"}' % words.replace("_", " ").encode()
    assert about(body) is About.REQUEST


@pytest.mark.parametrize(
    "word",
    """api-key key permission unauthorized unauthorised authentication credential token account organization
    organisation workspace project subscription plan access region country ip""".split(),  # noqa: SIM905
)
def test_words_about_the_key(word: str) -> None:
    assert about(b'{"message": "Forbidden: %s."}' % word.encode()) is About.KEY
    assert about(b'{"error": {"code": "%s"}}' % word.encode()) is About.KEY


def test_a_word_within_another_says_nothing() -> None:
    assert about(b'{"message": "monkeys, tokens, planned, ship"}') is About.UNCLEAR


def test_a_refusal_of_azures_content_filter_is_billed() -> None:
    said = {"error": {"code": "content_filter", "innererror": {"code": "ResponsibleAIPolicyViolation"}}}
    assert forbidden.is_billed(said)
    assert not forbidden.is_billed({"error": {"code": "content_filter"}})
