"""A 429 about the request, and one about what is used up for now."""

from __future__ import annotations

import pytest

from llm.rules import too_large

ANTHROPIC = (
    b'{"type":"error","error":{"type":"rate_limit_error","message":"This request would exceed the rate limit for your'
    b" organization (org) of 40,000 input tokens per minute. For details, refer to:"
    b" https://docs.claude.com/en/api/rate-limits. You can see the response headers for current usage. Please reduce"
    b' the prompt length or the maximum tokens requested, or try again later."}}'
)


@pytest.mark.parametrize(
    "said",
    [
        b'{"error":{"message":"Request too large for gpt-4o in organization org-x on tokens per min (TPM): Limit 10000,'
        b' Requested 14000. The input or output tokens must be reduced in order to run successfully."}}',
        b'{"error":{"message":"TPM: Limit 6000, Requested 10042, please reduce your message size and try again."}}',
        b'{"message":"tokens per minute (TPM): limit: 6000, requested: 6001"}',
        b'{"detail":"Prompt is too long"}',
        b'{"message":"Over the rate limit: limit 6000, requested 6001. Send less, or try again later."}',
    ],
)
def test_a_request_that_no_minute_has_room_for(said: bytes) -> None:
    assert too_large.says(said)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"{}",
        b'{"message":"Requests rate limit exceeded"}',
        b'{"error":{"message":"Rate limit reached for gpt-4o on tokens per min (TPM): Limit 10000, Used 9000, Requested'
        b' 2000. Please try again in 6s."}}',
        b'{"error":{"message":"limit 6000, requested 6000"}}',
        b'{"message":"Please reduce your request rate."}',
        ANTHROPIC,
        b'{"message":"Rate limit exceeded: too many requests, or a request too large. Try again later."}',
        b" " * 20_000 + b"request too large",
    ],
)
def test_a_limit_that_is_used_up_for_now(said: bytes) -> None:
    assert not too_large.says(said)
