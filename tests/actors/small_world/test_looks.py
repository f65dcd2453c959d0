from dataclasses import replace

import numpy as np
import pytest

from actors.small_world.faces import render
from actors.small_world.looks import (
    EXPRESSIONS,
    HAIR,
    HAIR_STYLES,
    PALETTES,
    PERSONS,
    Look,
    describe,
    describe_reference,
)

LOOK = Look("woman", "red", "long", "fair", "green", "blue", True, False, "smiling", "still")


def looks(count: int, seed: int = 0) -> list[Look]:
    rng = np.random.default_rng(seed)
    return [Look.sample(rng) for _ in range(count)]


def test_every_trait_is_drawn_and_women_have_no_beards():
    drawn = looks(600)
    assert {look.person for look in drawn} == set(PERSONS)
    assert {look.hair for look in drawn} == set(HAIR)
    assert {look.expression for look in drawn} == set(EXPRESSIONS)
    assert not any(look.beard for look in drawn if look.person == "woman")
    assert 0.35 < np.mean([look.beard for look in drawn if look.person == "man"]) < 0.65


def test_a_description_tells_every_trait():
    rng = np.random.default_rng(1)
    for look in looks(100):
        text = describe(look, "at once", rng)
        colours = [
            f" {look.hair} hair,",
            f" {look.skin} skin,",
            f" a {look.shirt} shirt,",
            f" {look.wall} wall behind.",
        ]
        assert all(clause in text for clause in [*colours, f" {HAIR_STYLES[look.hair_style]},", f" {look.person}"]), (
            text
        )
        assert (" glasses," in text) == look.glasses
        assert (" a beard," in text) == look.beard
        assert " Speech starts at once." in text
        assert " a orange" not in text


def test_clauses_stand_in_any_order():
    rng = np.random.default_rng(1)
    firsts = {describe(LOOK, "at once", rng).split(": ")[1].split(",")[0] for _ in range(60)}
    assert firsts == {"red hair", "worn long", "fair skin", "glasses", "a green shirt"}


def test_a_description_for_a_reference_tells_no_look():
    text = describe_reference("at once", np.random.default_rng(0))
    assert not any(f" {name} " in text for palette in PALETTES.values() for name in palette)


def test_wrong_values_are_named():
    with pytest.raises(ValueError, match="hair must be one of black, brown, blond, red, grey, got 'green'"):
        replace(LOOK, hair="green")


@pytest.mark.parametrize("size", [(192, 128), (128, 192), (128, 128), (96, 64)])
def test_pictures_have_the_size_and_the_same_seed_gives_the_same(size):
    mouth = np.zeros((5, 2), np.float32)
    frames = render(LOOK, mouth, size, seed=3)
    assert frames.shape == (5, size[1], size[0], 3)
    assert frames.dtype == np.uint8
    assert np.array_equal(frames, render(LOOK, mouth, size, seed=3))
    assert not np.array_equal(frames, render(LOOK, mouth, size, seed=4))


def test_the_mouth_opens_and_nothing_else_moves_in_a_head_that_keeps_still():
    mouth = np.array([[0.0, 0.5], [1.0, 0.5]], np.float32)
    shut, opened = render(LOOK, mouth, (128, 128), seed=0).astype(int)
    rows, columns = np.nonzero(np.abs(shut - opened).sum(axis=-1))
    assert len(rows) > 50
    assert rows.min() > 64
    assert columns.min() > 45
    assert columns.max() < 83


def test_heads_nod_up_and_down_and_sway_to_the_sides():
    mouth = np.zeros((25, 2), np.float32)

    def centres(motion: str) -> tuple[np.ndarray, np.ndarray]:
        frames = render(replace(LOOK, motion=motion, glasses=False), mouth, (128, 128), seed=0).astype(int)
        is_skin = np.abs(frames - LOOK.colours["skin"]).sum(axis=-1) < 12
        weights = is_skin / is_skin.sum(axis=(1, 2), keepdims=True)
        return (weights.sum(axis=2) @ np.arange(128)), (weights.sum(axis=1) @ np.arange(128))

    for motion, moves_rows, moves_columns in (
        ("still", False, False),
        ("nodding", True, False),
        ("swaying", False, True),
    ):
        rows, columns = centres(motion)
        assert (np.ptp(rows) > 4) == moves_rows, motion
        assert (np.ptp(columns) > 4) == moves_columns, motion
