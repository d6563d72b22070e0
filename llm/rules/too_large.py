"""Whether a 429 is about the request: more tokens than the provider takes in a whole minute. Pure.

OpenAI and its likes say "Request too large for … on tokens per min (TPM): Limit 10000, Requested 14000. The input or
output tokens must be reduced in order to run successfully." (https://platform.openai.com/docs/guides/rate-limits); a
limit that is used up for now says "Rate limit reached for … Limit 10000, Used 9000, Requested 2000". Anthropic says of
that: "This request would exceed the rate limit … Please reduce the prompt length …, or try again later."
"""

from __future__ import annotations

import re

# A refusal is short. No more of what else it may be is looked through.
_READ_BYTES = 20_000
_SAYS_SO = re.compile(
    rb"(?:request|prompt|message|input)s? (?:is |are |was )?too (?:large|long|big)|tokens must be reduced",
    re.IGNORECASE,
)
_NUMBERS = re.compile(rb"limit:? (\d{1,12})\b[^\"]{0,60}?\brequested:? (\d{1,12})\b", re.IGNORECASE)


def says(body: bytes) -> bool:
    """Whether the body of a 429 says that the request alone is more than the limit."""
    head = body[:_READ_BYTES]
    words = head.lower()
    passes = b"rate limit" in words and b"try again later" in words
    if _SAYS_SO.search(head) and not passes:
        return True
    return any(int(requested) > int(limit) for limit, requested in _NUMBERS.findall(head))
