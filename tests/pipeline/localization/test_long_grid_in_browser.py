"""The page of a campaign of thousands of clips in a real browser: it opens soon and loads what is looked at."""

import pytest
from PIL import Image
from playwright.sync_api import expect

from pipeline.localization.grid import Cell, SceneLine, render_grid
from tests.finished_campaigns import LINES


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A page of 500 scenes in 7 languages, each clip with a poster of its own."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "clips").mkdir()
    Image.new("RGB", (224, 128), (60, 90, 110)).save(folder / "poster.jpg")
    scenes = []
    for number in range(500):
        cells = {}
        for code, line in LINES.items():
            name = f"scene-{number:03}.{code}"
            (folder / f"clips/{name}.jpg").hardlink_to(folder / "poster.jpg")
            files = {suffix: f"clips/{name}.{suffix}" for suffix in ("srt", "vtt")}
            cells[code] = [Cell(name, "done", line, 1.6, f"clips/{name}.mp4", f"clips/{name}.jpg", files, (224, 128))]
        scenes.append(
            SceneLine(f"scene-{number:03}", "A shop by the sea. " * 40, "Woman", LINES["en"], "en", cells=cells)
        )
    (folder / "campaign.html").write_text(render_grid("Many", scenes, list(LINES)))
    return (folder / "campaign.html").as_uri()


@pytest.mark.slow
def test_500_scenes_in_7_languages_open_within_two_seconds(visits, many):
    times_ms = []
    for _ in range(3):  # the best of three: others may be at work beside us
        visits.requests.clear()
        page = visits.open(many)
        # The page is laid out and painted, and the browser is free for what comes next.
        painted = "() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => done(performance.now()))))"
        times_ms.append(page.evaluate(painted))
        assert 0 < page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") <= times_ms[-1]
    assert min(times_ms) < 2000, times_ms
    expect(page.locator(".shown")).to_have_text("3,500 shown")
    page.wait_for_timeout(300)
    posters = [name for name in visits.requests if name.endswith(".jpg")]
    assert 20 < len(posters) < 150, "posters near the window, and no others"
    page.goto(f"{many}#scene-400.ja")
    expect(page.locator('[id="scene-400.ja"]')).to_be_in_viewport(ratio=1)
    page.wait_for_function("document.getElementById('scene-400.ja').querySelector('img').naturalWidth === 224")
    assert not any("scene-200" in name for name in visits.requests)
