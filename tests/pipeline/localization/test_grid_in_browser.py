"""The campaign's page in a real browser: looked at, clicked, typed at, played."""

import io
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from actors.request import LANGUAGES
from tests.finished_campaigns import FAILED, LINES, NAMES, WAITING, finished_campaign
from tests.visits import FAINT_TEXTS, StaticServer

DOCS = Path(__file__).parents[3] / "docs"
MOST_PICTURE_BYTES = 250_000
# From then on it plays slowly, so that a slow machine sees it still.
IS_PLAYING = """([id, hasSound, time]) => {
  const video = document.getElementById(id).querySelector("video");
  if (!(video?.currentTime > time) || video.muted === hasSound) return false;
  video.playbackRate = 0.1;
  return true;
}"""


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """A finished campaign: six scenes whole but for two clips, one with rejected lines, one rejected."""
    return finished_campaign(tmp_path_factory.mktemp("campaign"))


@pytest.fixture
def url(campaign):
    return (campaign / "campaign.html").as_uri()


def play_button(page: Page, clip_id: str):
    return page.locator(f'[id="{clip_id}"] .play')


def shown(page: Page) -> list[str]:
    """Ids of the clips that can be seen, scene by scene."""
    return page.evaluate(
        "[...document.querySelectorAll('.clip[id]')].filter((c) => c.checkVisibility()).map((c) => c.id)"
    )


def address(page: Page) -> str:
    return page.evaluate("location.href")


def focused(page: Page) -> str:
    """Id of the clip, or name of the scene, that has the focus."""
    return page.evaluate("""() => {
      const box = document.activeElement.closest(".clip, .scene");
      return box?.id || box?.querySelector("h2")?.textContent || box?.textContent || document.activeElement.name || "";
    }""")


def wait_for_focus(page: Page, clip_id: str) -> None:
    page.wait_for_function("(id) => document.activeElement.closest('.clip')?.id === id", arg=clip_id)


def wait_until_it_plays(page: Page, clip_id: str, has_sound: bool, time_s: float = 0.1) -> None:
    page.wait_for_function(IS_PLAYING, arg=[clip_id, has_sound, time_s])


def test_scenes_go_down_languages_across_and_their_heads_stay(visits, url):
    page = visits.open(url, 1000, 700)
    heads = page.get_by_role("columnheader").all_inner_texts()
    assert heads == ["Scene", *LANGUAGES.values()]
    assert page.locator(".scene h2").all_text_contents() == [*NAMES, "script", "picture"]
    corners = [[play_button(page, f"{name}.{code}").bounding_box() for code in ("zh", "fr")] for name in NAMES[:3]]
    for (left, right), (lower, _) in pairwise(corners):
        assert left["y"] == right["y"] < left["y"] + left["height"] < lower["y"]
        assert left["x"] + 1000 < right["x"] + 200, "languages stand side by side"
        assert left["x"] == lower["x"]
    page.mouse.move(500, 500)
    page.mouse.wheel(300, 900)
    page.wait_for_function("scrollX > 200 && scrollY > 500")
    form, top, scene = (page.locator(name).bounding_box() for name in ("form", ".heads", ".row:nth-child(4) > .scene"))
    assert (form["y"], top["y"], scene["x"]) == (0, pytest.approx(form["height"], abs=1), 0)
    assert top["x"] == pytest.approx(-page.evaluate("scrollX")), "heads go along sideways"
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_a_picture_of_the_reference_and_the_source_line_stand_beside(visits, url):
    page = visits.open(url)
    scene = page.locator(".scene", has_text="morning")
    assert scene.locator("blockquote").text_content() == LINES["en"]
    assert scene.locator("img").evaluate("(image) => [image.complete, image.naturalWidth, image.naturalHeight]") == [
        True,
        360,
        270,
    ]
    scene.locator("summary").click()
    expect(scene.get_by_text("the morning light behind")).to_be_visible()


def test_a_clip_plays_under_the_pointer_without_sound_and_stops_when_it_leaves(visits, url):
    page = visits.open(url)
    play_button(page, "welcome.ja").hover()
    wait_until_it_plays(page, "welcome.ja", False, 0.3)
    assert page.locator("video").evaluate("(video) => [video.videoWidth, video.loop]") == [224, True]
    play_button(page, "welcome.ko").hover()
    wait_until_it_plays(page, "welcome.ko", False)
    assert page.locator("video").count() == 1
    page.mouse.move(5, 5)
    expect(page.locator("video")).to_have_count(0)


def test_what_the_pointer_only_passes_is_not_loaded(visits, url):
    page = visits.open(url)
    page.evaluate("""() => {
      const mouse = { bubbles: true, pointerType: "mouse" };
      const tell = (type, button) => button.dispatchEvent(new PointerEvent(type, mouse));
      for (const button of document.querySelectorAll(".row:first-child .play")) {
        tell("pointerover", button);
        if (!button.closest('[data-language="fr"]')) tell("pointerout", button);
      }
    }""")
    wait_until_it_plays(page, "welcome.fr", False)
    assert {name.rpartition("/")[2] for name in visits.requests if name.endswith(".mp4")} == {"welcome.fr.mp4"}


def test_a_click_plays_with_sound_once_and_another_stops_it(visits, url):
    page = visits.open(url)
    button, video = play_button(page, "welcome.en"), page.locator("video")
    button.click()
    wait_until_it_plays(page, "welcome.en", True)
    assert video.evaluate("(video) => video.webkitAudioDecodedByteCount") > 0
    assert button.get_attribute("aria-pressed") == "true"
    play_button(page, "welcome.ja").hover()
    page.wait_for_timeout(300)
    wait_until_it_plays(page, "welcome.en", True)
    video.evaluate("(video) => { video.playbackRate = 4; }")
    expect(video).to_have_count(0)
    assert button.get_attribute("aria-pressed") == "false"
    button.click()
    wait_until_it_plays(page, "welcome.en", True)
    button.click()
    expect(video).to_have_count(0)


def test_a_clip_that_is_gone_says_so(browser, campaign, tmp_path):
    page = browser.new_page()
    html = (campaign / "campaign.html").read_text().replace("welcome.en.mp4", "gone.mp4")
    (tmp_path / "campaign.html").write_text(html)
    page.goto((tmp_path / "campaign.html").as_uri())
    play_button(page, "welcome.en").click()
    page.wait_for_selector('[id="welcome.en"] .lost')
    expect(page.locator("video")).to_have_count(0)
    page.close()


def test_filters_by_language_and_status_and_words(visits, url):
    page = visits.open(url)
    every = shown(page)
    assert len(every) == 49
    expect(page.locator(".shown")).to_have_text("50 shown")  # a scene that was rejected, too
    page.get_by_label("Japanese").check()
    assert shown(page) == [clip_id for clip_id in every if clip_id.endswith(".ja")]
    assert [head for head in page.get_by_role("columnheader").all_inner_texts() if head] == ["Scene", "Japanese"]
    page.get_by_label("German").check()
    page.get_by_label("Failed 1").check()
    assert shown(page) == [FAILED]
    expect(page.locator(".shown")).to_have_text("1 of 50 shown")
    page.get_by_label("German").uncheck()
    page.get_by_label("Failed 1").uncheck()
    page.get_by_label("Rejected 3").check()
    assert shown(page) == ["script.ja"]
    expect(page.get_by_text("absent.png")).to_be_visible()
    page.get_by_label("Japanese").uncheck()
    page.get_by_label("Rejected 3").uncheck()
    page.get_by_label("Search").fill("HARBOUR boutique")
    assert shown(page) == ["harbour.fr"]
    page.get_by_label("Search").fill("no such words")
    assert shown(page) == []
    page.get_by_role("button", name="Show all").click()
    assert shown(page) == every
    assert focused(page) == "text"


def test_a_choice_stands_in_the_address_and_can_be_passed_on(visits, url):
    page = visits.open(url)
    page.get_by_label("French").check()
    page.get_by_label("Waiting 1").check()
    page.get_by_label("Search").fill("goodbye")
    assert address(page) == f"{url}#text=goodbye&language=fr&status=waiting"
    other = visits.open(address(page))
    assert shown(other) == [WAITING]
    assert other.get_by_label("Search").input_value() == "goodbye"
    other.get_by_label("Search").fill("")
    other.get_by_label("French").uncheck()
    other.get_by_label("Waiting 1").uncheck()
    assert address(other) == url


def test_a_link_leads_to_its_clip(visits, url):
    page = visits.open(f"{url}#goodbye.de")
    clip = page.locator('[id="goodbye.de"]')
    expect(clip).to_be_in_viewport(ratio=1)
    wait_for_focus(page, "goodbye.de")
    marked = clip.evaluate("(node) => [getComputedStyle(node).outlineStyle, getComputedStyle(node).outlineWidth]")
    assert marked == ["solid", "2px"]
    link = page.locator('[id="thanks.ko"]').get_by_role("link", name="link")
    assert link.evaluate("(node) => node.href") == f"{url}#thanks.ko"
    link.click()
    assert address(page) == f"{url}#thanks.ko"
    wait_for_focus(page, "thanks.ko")
    page.get_by_label("French").check()
    page.evaluate("location.hash = 'welcome.ja'")
    expect(page.locator('[id="welcome.ja"]')).to_be_in_viewport(ratio=1)
    expect(page.get_by_label("French")).not_to_be_checked()
    files = (
        page.locator('[id="thanks.ko"]')
        .get_by_role("link")
        .evaluate_all("(nodes) => nodes.slice(1).map((node) => node.href)")
    )
    assert [file.rpartition("/")[2] for file in files] == ["thanks.ko.mp4", "thanks.ko.srt", "thanks.ko.vtt"]


def test_the_keyboard_does_it_all(visits, url):
    page = visits.open(url)

    def press(*keys: str) -> str:
        for key in keys:
            page.keyboard.press(key)
        return focused(page)

    assert press("/") == "text"
    page.keyboard.type("light/")
    assert page.get_by_label("Search").input_value() == "light/"
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("Backspace")
    assert press("Escape") == "welcome.zh"
    assert press("ArrowRight", "ArrowRight", "ArrowDown") == "morning.en"
    ring = page.locator('[id="morning.en"]').evaluate("(node) => getComputedStyle(node).outlineStyle")
    assert ring == "solid"
    assert press("End") == "morning.fr"
    assert press("Home") == "morning", "the scene's own text"
    assert press("ArrowUp", "ArrowRight", "ArrowLeft", "ArrowLeft") == "welcome"
    assert press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight", "ArrowRight") == "welcome.ko"
    assert press(*["ArrowDown"] * 6) == "script.ko", "what has no clip can be reached, too"
    assert press("ArrowDown").startswith("Scene rejected")
    assert press("ArrowUp") == "script.ko"
    expect(page.locator('[id="script.ko"]')).to_be_in_viewport(ratio=1)
    assert press("ArrowRight", "ArrowUp", "Enter") == "goodbye.de"
    wait_until_it_plays(page, "goodbye.de", True)
    press("Escape")
    expect(page.locator("video")).to_have_count(0)
    press("Space")
    wait_until_it_plays(page, "goodbye.de", True)
    press("Space")
    expect(page.locator("video")).to_have_count(0)


def test_tab_goes_through_the_filters_to_one_clip_and_out(visits, url):
    page = visits.open(url)
    names = []
    name_of_focus = """() => {
      const at = document.activeElement;
      return at === document.body ? null : at.getAttribute("aria-label") || at.value || at.name || at.textContent;
    }"""
    while len(names) < 40:
        page.keyboard.press("Tab")
        if (name := page.evaluate(name_of_focus)) is None:
            break
        names.append(name)
    statuses = ["done", "failed", "rejected", "waiting"]
    assert names == ["Table", "Run", "text", *LANGUAGES, *statuses, "Play welcome.zh", "link", "mp4", "srt", "vtt"]


def test_a_rejected_cell_says_what_to_change(visits, url):
    page = visits.open(f"{url}#status=rejected&status=failed&status=waiting")
    assert shown(page) == [FAILED, WAITING, "script.ja", "script.ko"]
    texts = {clip_id: page.locator(f'[id="{clip_id}"] p').all_text_contents() for clip_id in shown(page)}
    assert texts["script.ja"][:2] == ["Rejected", "안녕하세요"]
    assert texts["script.ja"][2].startswith("line.ja must be in kana or Chinese characters as Japanese is, got Hangul")
    assert texts["script.ko"] == ["Rejected", "line.ko is missing: write it, or leave ko out"]
    assert texts[FAILED] == ["Failed", LINES["de"], "decoding: the picture is not a number"]
    assert texts[WAITING] == ["Waiting", LINES["fr"]]
    of_scene = page.locator(".whole p").all_text_contents()
    assert of_scene[0] == "Scene rejected"
    assert of_scene[1].startswith("image is not there: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_and_every_part_has_a_name(visits, url, scheme):
    page = visits.open(url, color_scheme=scheme)
    page.get_by_label("Done 45").check()
    page.get_by_label("Done 45").uncheck()
    page.get_by_label("French").check()
    page.evaluate("document.activeElement.blur()")
    page.wait_for_timeout(300)  # colours change softly
    assert page.evaluate(FAINT_TEXTS) == []
    page.get_by_label("French").uncheck()
    page.get_by_label("Waiting 1").check()
    page.wait_for_timeout(300)
    assert page.evaluate(FAINT_TEXTS) == []
    page.get_by_label("Waiting 1").uncheck()
    assert page.evaluate("document.documentElement.lang") == "en"
    for code, line in LINES.items():
        assert page.locator(f'[id="welcome.{code}"] p').get_attribute("lang") == code
        assert page.locator(f'[id="welcome.{code}"] p').text_content() == line
        assert page.get_by_role("button", name=f"Play welcome.{code}").count() == 1
    assert page.get_by_role("grid", name="Clips").get_by_role("row").count() == 9
    assert page.get_by_role("row").nth(1).get_by_role("gridcell").count() == 7
    unnamed = "[...document.images].filter((image) => !image.hasAttribute('alt')).length"
    assert page.evaluate(unnamed) == 0


def test_a_narrow_window_has_the_scene_above_its_clips(visits, url):
    page = visits.open(url, 390, 844, has_touch=True, is_mobile=True)
    scene, clip = (page.locator(name).first.bounding_box() for name in (".body .scene", ".body .clip"))
    assert scene["x"] + scene["width"] <= 390
    assert scene["y"] + scene["height"] <= clip["y"] < 700
    assert 180 < clip["width"] < 300
    play_button(page, "welcome.zh").tap()
    wait_until_it_plays(page, "welcome.zh", True)
    page.evaluate("scrollTo(500, 300)")
    page.wait_for_function("scrollX > 400")
    scene = page.locator(".body .scene").nth(1).bounding_box()
    assert 0 <= scene["x"] < 20, "the scene stays in view"
    assert page.locator(".heads").bounding_box()["y"] == 0
    page.evaluate("scrollTo(0, 0)")
    page.get_by_label("Korean").tap()
    assert {clip_id.partition(".")[2] for clip_id in shown(page)} == {"ko"}
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_who_wants_little_motion_gets_none_without_asking(visits, url):
    page = visits.open(url, reduced_motion="reduce")
    play_button(page, "welcome.ja").hover()
    page.wait_for_timeout(400)
    expect(page.locator("video")).to_have_count(0)
    play_button(page, "welcome.ja").click()
    wait_until_it_plays(page, "welcome.ja", True)


def test_from_a_bucket_it_works_as_from_a_disk(visits, campaign):
    with StaticServer(str(campaign)) as server:
        page = visits.open(f"{server.url}/campaign.html#welcome.de")
        wait_for_focus(page, "welcome.de")
        play_button(page, "welcome.en").click()
        wait_until_it_plays(page, "welcome.en", True)
        page.get_by_label("German").check()
        assert address(page) == f"{server.url}/campaign.html#language=de"
        assert (
            page.locator(".scene img").first.evaluate("(image) => image.decode().then(() => image.naturalWidth)") == 360
        )
        visits.requests = [name for name in visits.requests if "?" in name or not name.startswith(server.url)]
        assert visits.requests == []


def test_pictures_for_the_docs(visits, request, url, tmp_path):
    """With `--screenshots OUTPUT` they are of that campaign and go to the docs."""
    output = request.config.getoption("--screenshots")
    folder = DOCS if output else tmp_path
    url = (Path(output).resolve() / "campaign.html").as_uri() if output else url
    page = visits.open(url, 1440, 1000, device_scale_factor=1.5)
    picture(page, folder / "campaign.webp")
    page = visits.open(
        f"{url}#language=ja&language=de&language=fr", 1120, 700, color_scheme="dark", device_scale_factor=1.5
    )
    page.locator(".play:visible").nth(1).click()
    speaks = "() => { const v = document.querySelector('video'); return v?.currentTime > 0.5 && (v.pause(), true); }"
    page.wait_for_function(speaks)
    picture(page, folder / "campaign-playing.webp")


def picture(page: Page, path: Path) -> None:
    """A picture of the window, small enough for a repository."""
    page.wait_for_function("""[...document.images].every((image) => {
      const { top, bottom } = image.getBoundingClientRect();
      return image.complete || !image.checkVisibility() || bottom < 0 || top > innerHeight;
    })""")
    with Image.open(io.BytesIO(page.screenshot())) as image:
        image.convert("RGB").save(path, quality=82, method=6)
    assert 5_000 < path.stat().st_size < MOST_PICTURE_BYTES, path.name
