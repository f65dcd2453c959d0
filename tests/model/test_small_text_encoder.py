import pytest

from model.small_text_encoder import trained_tokenizer

COLOURS = ("red", "blue", "green")
PROMPTS = [f'A woman: {hair} hair, a {shirt} shirt. She says: "你 好！"\n' for hair in COLOURS for shirt in COLOURS] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return trained_tokenizer(PROMPTS, 1024, min_frequency=10)


def phrases(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer(text).input_ids[1:]]


def test_a_colour_and_what_has_it_are_one_token(tokenizer):
    told = phrases(tokenizer, PROMPTS[0])
    assert told == ["A woman: ", "red hair, ", "a red shirt. ", 'She says: "', "你 好", '！"\n']


def test_what_is_rarer_than_asked_for_is_no_token():
    told = phrases(trained_tokenizer(PROMPTS, 1024, min_frequency=16), PROMPTS[0])
    assert " hair, " in told
    assert not any("red shirt" in phrase for phrase in told)


@pytest.mark.parametrize("text", ["A dog, unheard of.", "“你好” — Grüße!", "\n\n a\t b  c ,,", "..", ""])
def test_other_text_is_spelt(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_no_prompts_leave_a_token_per_byte():
    assert len(trained_tokenizer([], 1024)("Grüße, 你").input_ids) == 1 + len("Grüße, 你".encode())
