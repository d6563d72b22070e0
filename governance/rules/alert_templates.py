"""Operators' own words for what a channel says: a text with names in braces, and nothing that could be run. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What each name stands for, as the form says.
NAMES: Mapping[str, str] = {
    "title": "what happened, in a few words",
    "message": "all of it, with the amounts",
    "advice": "what to do there; empty for customers, and of what is over",
    "link": "the page where one acts",
    "button": "what that page is for",
    "severity": "info, warning or critical",
    "customer": "whom it is about; empty where that is nobody",
    "kind": "the kind, such as budget_stopped",
    "time": "when, in the channel's time zone",
    "channel": "the channel's name",
}
LONGEST_SUBJECT, LONGEST_TEXT = 200, 4_000
_NAME = re.compile(r"\{([A-Za-z_]+)\}")
_GAP = re.compile(r"\n{3,}")


def problem_with_subject(template: str) -> str:
    """What is wrong with a template of one line, as a sentence; empty where nothing is."""
    if len(template) > LONGEST_SUBJECT or not template.isprintable():
        return f"One line of at most {LONGEST_SUBJECT} characters."
    return _unknown(template)


def problem_with_text(template: str) -> str:
    """The same for the text, which leads to where one acts whatever else it says."""
    if len(template) > LONGEST_TEXT:
        return f"At most {LONGEST_TEXT:,} characters."
    if not all(each.isprintable() or each in "\n\t" for each in template):
        return "It has characters that nobody sees."
    if template and "{link}" not in template:
        return "Put {link} where it is to lead to the page where one acts."
    return _unknown(template)


def filled(template: str, values: Mapping[str, str]) -> str:
    """The template with values in the place of names. What a value says is never taken for a name."""
    lines = _NAME.sub(lambda found: values.get(found[1], found[0]), template).splitlines()
    # Where a value is empty, so is its line.
    return _GAP.sub("\n\n", "\n".join(line.rstrip() for line in lines)).strip()


def _unknown(template: str) -> str:
    odd = sorted({name for name in _NAME.findall(template) if name not in NAMES})
    if not odd:
        return ""
    known = ", ".join(f"{{{name}}}" for name in NAMES)
    return f"{{{odd[0]}}} stands for nothing; there are {known}."
