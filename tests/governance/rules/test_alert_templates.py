"""Operators' own words, filled in."""

from __future__ import annotations

import pytest

from governance.rules import alert_templates
from governance.rules.alert_templates import filled, problem_with_subject, problem_with_text


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", ""),
        ("[{severity}] {title}", ""),
        ('{"a": 1} { title } {}', ""),
        ("two\nlines", "One line"),
        ("x" * 201, "One line"),
        ("{titel}", "{titel} stands for nothing; there are {title}, "),
        ("{b} {a}", "{a} stands for nothing"),
        ("{__class__}", "{__class__} stands for nothing"),
    ],
)
def test_a_subject_is_one_line_of_known_names(template: str, problem: str) -> None:
    found = problem_with_subject(template)
    assert found.startswith(problem) if problem else not found


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("", ""),
        ("{message}\n\t{link}", ""),
        ("{message}", "Put {link} where"),
        ("{link} {lonk}", "{lonk} stands for nothing"),
        ("{link}" + "x" * 4_000, "At most 4,000"),
        ("{link}\x07", "It has characters that nobody sees"),
        ("{link}\u202e", "It has characters that nobody sees"),
    ],
)
def test_a_text_leads_to_where_one_acts(template: str, problem: str) -> None:
    found = problem_with_text(template)
    assert found.startswith(problem) if problem else not found


def test_what_a_value_says_is_no_name_and_an_empty_line_leaves_no_gap() -> None:
    values = dict.fromkeys(alert_templates.NAMES, "") | {"title": "{link}", "link": "https://x"}
    assert filled("{title}\n\n{advice}\n\n{customer}\n{link} {other} {}", values) == "{link}\n\nhttps://x {other} {}"
