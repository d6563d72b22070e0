"""What a 403 is about."""

from __future__ import annotations

import pytest

from llm.rules.forbidden import About, about


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"message": "The guardrail refused the input"}', About.REQUEST),
        (b'{"error": {"metadata": {"flagged_input": "bombs"}}}', About.REQUEST),
        (b'{"error": "content_filter"}', About.REQUEST),
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
