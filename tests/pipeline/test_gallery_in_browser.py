"""The page of a run in a real browser."""

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from actors.request import LANGUAGES, DialogueLine
from actors.row import Failure
from pipeline.gallery import ClipCard, RunFacts, render_gallery
from tests.finished_runs import mux
from tests.visits import FAINT_TEXTS

LINES = {"en": "Hi there!", "ja": "こんにちは。", "ko": "안녕하세요!", "de": "Guten Tag!"}
FACTS = {
    "mode": "distill",
    "checkpoint": "checkpoints/mini",
    "num_skipped": 0,
    "clips_per_minute": 12.5,
    "wall_s": 41.0,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """A page of twelve clips and two dead letters, with the files it links."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "clips").mkdir()
    for name in ("run.json", "dead_letter.jsonl"):
        (folder / name).write_text("{}\n")
    tone_S = 0.2 * np.sin(2 * np.pi * 300 * np.arange(51_200) / 51_200).astype(np.float32)
    cards = [
        ClipCard(
            name,
            "dead_lettered",
            language,
            prompt="A desk.",
            failure=Failure("manifest", "seconds", 40, "must be at most 15"),
        )
        for name, language in (("late", "de"), ("later", "ko"))
    ]
    for number, (language, line) in enumerate(sorted(LINES.items()) * 3):
        name = f"row-{number:02}"
        height, width = ((128, 224), (224, 128), (160, 160))[number % 3]
        frames = np.full((25, height, width, 3), (40 + 15 * number, 90, 120), np.uint8)
        for suffix, data in zip(("mp4", "jpg"), mux(frames, tone_S), strict=True):
            (folder / f"clips/{name}.{suffix}").write_bytes(data)
        files = {"video_url": f"clips/{name}.mp4", "poster_url": f"clips/{name}.jpg"}
        dialogue = (DialogueLine(speaker="Woman", line=line),)
        stages = {"conditioning": 0.4, "base_generation": 2.5, "decoding": 0.8, "writing": 0.1}
        size = {"width": width, "height": height, "resolution": "256p", "seconds": 1.0, "seed": number}
        cards.append(ClipCard(name, "done", language, "", "A desk.", dialogue, **size, **files, stage_seconds=stages))
    times = {"started": "2026-11-23T01:28:00+00:00", "finished": "2026-11-23T01:29:00+00:00"}
    run = RunFacts("Nightly", **times, num_done=12, num_dead_lettered=2, **FACTS, versions={"ray": "2.60.0"})
    (folder / "index.html").write_text(render_gallery(run, cards))
    return (folder / "index.html").as_uri()


def shown(page: Page) -> list[str]:
    return page.evaluate("[...document.querySelectorAll('.card')].filter((c) => c.checkVisibility()).map((c) => c.id)")


@pytest.mark.slow
def test_clips_play_one_at_a_time(visits, url):
    page = visits.open(url)
    assert not [name for name in visits.requests if name.endswith(".mp4")], "nothing is loaded before it is asked for"
    video = page.locator('[id="row-00"] video')
    video.click(position={"x": 100, "y": 60})
    is_playing = """(id) => {
      const video = document.getElementById(id).querySelector("video");
      if (video.paused || video.currentTime < 0.1) return false;
      video.playbackRate = 0.1; // so that a slow machine sees it still
      return true;
    }"""
    page.wait_for_function(is_playing, arg="row-00")
    assert video.evaluate("(video) => [video.muted, video.videoWidth]") == [False, 224]
    page.locator('[id="row-02"] video').click(position={"x": 100, "y": 60})
    page.wait_for_function(is_playing, arg="row-02")
    assert video.evaluate("(video) => video.paused")
    page.get_by_label("German").check()
    page.get_by_label("Dead letters").check()
    assert page.locator('[id="row-02"] video').evaluate("(video) => video.paused"), "what is hidden is silent"


@pytest.mark.slow
def test_filters_keyboard_and_links(visits, url):
    page = visits.open(url)
    every = shown(page)
    assert len(every) == 14
    page.keyboard.press("/")
    page.keyboard.type("guten")
    assert shown(page) == ["row-00", "row-04", "row-08"]
    expect(page.locator(".shown")).to_have_text("3 of 14 shown")
    page.get_by_label("Search").fill("")
    page.get_by_label("Korean").check()
    page.get_by_label("Dead letters").check()
    assert shown(page) == ["later"]
    expect(page.locator('[id="later"]')).to_contain_text("must be at most 15")
    page.get_by_label("Search").fill("nothing of the kind")
    page.get_by_role("button", name="Show all").click()
    assert shown(page) == every
    page.get_by_label("Japanese").check()
    page.evaluate("location.hash = 'row-09'")
    expect(page.locator('[id="row-09"]')).to_be_in_viewport(ratio=1)
    assert shown(page) == every, "a link shows its clip whatever was chosen"
    other = visits.open(f"{url}#row-11")
    expect(other.locator('[id="row-11"]')).to_be_in_viewport(ratio=1)
    assert other.locator('[id="row-11"] h2 a').evaluate("(link) => link.href") == f"{url}#row-11"


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_in_wide_and_narrow_windows(visits, url, scheme):
    for width in (1440, 390):
        page = visits.open(url, width, 844, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_label("German").check()
        page.get_by_label("German").blur()
        page.wait_for_timeout(300)  # colours change softly
        assert page.evaluate(FAINT_TEXTS) == []
        for language in LINES:
            assert page.get_by_label(LANGUAGES[language]).count() == 1
