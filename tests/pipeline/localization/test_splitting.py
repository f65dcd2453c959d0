"""Lines cut at the ends of sentences."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.localization.splitting import split_line


def test_sentences_are_put_together_while_they_fit():
    assert split_line("A b. C d! E f?", len, 9) == ["A b. C d!", "E f?"]
    assert split_line("A b. C d! E f?", len, 100) == ["A b. C d! E f?"]
    assert split_line("A b. C d! E f?", len, 0) == ["A b.", "C d!", "E f?"]


def test_chinese_sentences_need_no_space_and_quotes_stay_with_theirs():
    assert split_line("你好。“再见！”走吧", len, 0) == ["你好。", "“再见！”", "走吧"]


def test_a_point_in_a_number_ends_nothing():
    assert split_line("It is 3.5 now.", len, 0) == ["It is 3.5 now."]


def test_sentences_that_repeat_are_all_kept():
    assert split_line("No. No. No.", len, 7) == ["No. No.", "No."]


@given(st.text(alphabet="ab. !?。你", max_size=40), st.integers(0, 12))
def test_no_letter_is_lost(line, most):
    assert "".join(split_line(line, len, most)).replace(" ", "") == line.replace(" ", "")
