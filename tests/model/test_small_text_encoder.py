import pytest

from model.small_text_encoder import phrase_tokenizer

COLOURS = ("red", "blue", "green")
PROMPTS = [f'A woman: {hair} hair, a {shirt} shirt. She says: "你 好！"\n' for hair in COLOURS for shirt in COLOURS] * 5


@pytest.fixture(scope="module")
def tokenizer():
    return phrase_tokenizer(PROMPTS, 1024, min_frequency=10)


def phrases(tokenizer, text):
    return [tokenizer.decode([token]) for token in tokenizer(text).input_ids[1:]]


def test_a_colour_and_what_has_it_are_one_token(tokenizer):
    told = phrases(tokenizer, PROMPTS[0])
    assert told == ["A woman: ", "red hair, ", "a red shirt. ", 'She says: "', "你 好", '！"\n']


def test_what_is_rarer_than_asked_for_is_no_token():
    told = phrases(phrase_tokenizer(PROMPTS, 1024, min_frequency=16), PROMPTS[0])
    assert told[0] == "A woman: "
    assert not any("red" in phrase for phrase in told), "spelt"
    assert "".join(told) == PROMPTS[0]


def test_phrases_of_certain_prompts_are_tokens_however_rare():
    told = phrases(phrase_tokenizer(PROMPTS, 1024, 10, ["a blur, a hiss, "]), "a hiss, red hair, ")
    assert told == ["a hiss, ", "red hair, "]


def test_the_rarest_phrases_are_left_out_of_a_full_vocabulary():
    tokenizer = phrase_tokenizer(PROMPTS, 264)
    assert len(tokenizer) == 264
    assert "A woman: " in phrases(tokenizer, PROMPTS[0])
    assert "red hair, " not in phrases(tokenizer, PROMPTS[0])


@pytest.mark.parametrize("text", ["A dog, unheard of.", "“你好” — Grüße!", "\n\n a\t b  c ,,", "..", ""])
def test_other_text_is_spelt(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in tokenizer(text).input_ids


def test_no_prompts_leave_a_token_per_byte():
    assert len(phrase_tokenizer([], 1024)("Grüße, 你").input_ids) == 1 + len("Grüße, 你".encode())


def test_a_vocabulary_without_room_for_bytes_is_refused():
    with pytest.raises(ValueError, match="vocabulary_size must be at least 260, got 259"):
        phrase_tokenizer(PROMPTS, 259)
