"""Whether the words of a refusal say that the model had written before it. Pure.

No list of sentences is ever whole. So it is said by two words that belong together: what a model writes (an output, a
response, a call of a tool), and what befell it (blocked, toxic, malformed, not to be parsed). The request has fields of
the same names, which are followed by what they are fields of ("response format"), quoted, or said to have to be
something; they say nothing.
"""

from __future__ import annotations

import re

# Of a long text what says why stands at its start, or at its end, behind what it quotes: so many letters of each.
_MOST_WORDS = 2_000
# Codes are words that are joined: "OutputTextSensitiveContentDetected", "invalid_tool_call".
_JOINED = re.compile(r"(?<=[a-z])(?=[A-Z])|_+")

# Behind what a model writes, these make a field, an address or a part of the request of it.
_OF_THE_REQUEST = (
    r"(?!(?: arguments?)?(?: (?:in|of|at) (?:the |your )?(?:messages?|history|conversation|request|input|prompt)\b"
    r"|[ .:](?:formats?|schemas?|types?|modalit\w+|config\w*|param\w*|settings?|options?|lengths?|languages?|sizes?"
    r"|budgets?|ids?|blocks?|parts?|turns?|messages?|results?|operations?|apis?|endpoints?|requests?|models?|modes?"
    r"|choices?|prefill\w*|(?:tokens?|limits?)(?! (?:limit )?(?:was |is |has been )?reached))\b))"
)
_WRITTEN = (
    r"(?<![\w./'\"`\[])(?:outputs?|responses?|answers?|completions?|generations?|(?:tool|function) ?(?:call|use)s?"
    rf"|generated (?:content|messages?)|fc related info)\b{_OF_THE_REQUEST}"
)
_SMALL = r"(?:(?:an?|the|its|this|valid|model(?:'?s)?|assistant(?:'?s)?|llm(?:'?s)?|generated|structured|json|schema) )"
# What befell it, ahead of which nothing is said of what a request has to have.
_BETWEEN = r"(?:(?!must|should|support|requir|expect|allow|messages|input|prompt|rate|quota|per )[^.:;!?\n]){0,40}?"
_BEFELL = (
    r"(?:blocked|filtered|flagged|moderated|rejected|refused|stopped|aborted|interrupted|truncated|cut off|incomplete"
    r"|malformed|invalid|not (?:a )?valid|new sensitive|sensitive|inappropriate|toxic|unsafe|harmful|prohibited|risk"
    r"|violat\w+|(?:not|non).?compliant|failed|(?:could|can) ?not be|(?:did|does) not (?:match|conform|comply)"
    r"|empty content|(?:guardrails?|moderation) (?:was |has been )?triggered|limit (?:was |is |has been )?reached)\b"
)
_IS_WRONG = (
    r"(?:invalid|empty|malformed|improperly formatted|truncated|incomplete|failed|blocked|filtered|flagged|toxic"
    r"|unsafe)"
)
_HARMS = r"\b(?:violat\w+|sensitive|inappropriate|toxic|unsafe|harmful|moderation|guardrail|policy)\b"
_CANNOT = r"(?:(?:failed|unable|could not|cannot|failure|error|problem)(?: to| in| while| when)?|invalid)"
_SAYS = re.compile(
    rf"{_WRITTEN}{_BETWEEN}\b{_BEFELL}"
    rf"|\b{_IS_WRONG} {_SMALL}{{0,3}}{_WRITTEN}"
    rf"|{_HARMS}{_BETWEEN}\b(?:in|on|of|from|by) {_SMALL}{{0,3}}{_WRITTEN}"
    rf"|\b{_CANNOT} (?:pars|validat|decod)(?:e|ing) {_SMALL}{{0,3}}{_WRITTEN}|\bvalidating {_WRITTEN}"
    r"|\bto (?:generate|produce) (?:an? )?(?:valid|json)\b|\bto validate json\b|json validate failed"
    # Who wrote it.
    r"|\b(?:model|assistant|llm) (?:has )?(?:produced|generated|returned|wrote|called)\b"
    r"(?! (?:(?:an?|the following) )?(?:errors?|status|http|\d))"
    r"|\b(?:model|llm) did not (?:call|produce|generate|write)|\bfailed to call a (?:function|tool)"
    r"|\bmodel output must contain\b|\bcould not finish the message\b|\b(?:generated|produced) (?:an? )?invalid"
    r"|\bgenerated (?:text|json|by the model)\b|\bduring generation\b|\brepetitive output|\btool error:"
    r"|\bafter generating\b|\bbilled for \d|safety check type output"
    # The JSON that is sent is our own: what is said of broken JSON is said of what was written. vLLM and TGI refuse so
    # what their models wrote, after all of it.
    r"|\bjson invalid|invalid json(?! ?(?:schema|payload|body|request))|eof while parsing|unterminated string"
    r"|expecting (?:.{1,20} delimiter|start token)|(?:生成|输出)(?:的|文本)*内容.{0,10}(?:敏感|不安全|违规|风险)",
    re.I,
)


def says_so(message: str) -> bool:
    """Whether the words of an error, or one of its codes, say that the model had written."""
    parts = [message] if len(message) <= 2 * _MOST_WORDS else [message[:_MOST_WORDS], message[-_MOST_WORDS:]]
    return any(_SAYS.search(_JOINED.sub(" ", part)) for part in parts)
