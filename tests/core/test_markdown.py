"""Tables in Markdown."""

from __future__ import annotations

from ciao_peft.markdown import markdown_table


def test_a_table_has_a_head_a_rule_and_its_rows():
    assert markdown_table(("a", "b"), [(1, "x"), (2, "y")]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | x |",
        "| 2 | y |",
    ]


def test_columns_stand_right_where_align_says_so_and_left_elsewhere():
    assert markdown_table(["a", "b", "c"], [], align="lr") == "| a | b | c |\n| --- | ---: | --- |"


def test_no_cell_ends_early_or_breaks_its_line():
    # A bar is escaped once, also after an escaped backslash; escaped bars stay as they are.
    cells = ["a|b", r"a\|b", r"a\\|b", "a\nb"]
    assert markdown_table(cells, []).splitlines()[0] == r"| a\|b | a\|b | a\\\|b | a b |"
