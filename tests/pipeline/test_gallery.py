from dataclasses import replace
from html.parser import HTMLParser
from urllib.parse import unquote

import pytest

from actors.request import LANGUAGES, DialogueLine
from actors.row import Failure
from pipeline.gallery import (
    ClipCard,
    RunFacts,
    encode_url,
    format_duration,
    format_seconds,
    format_time,
    render_gallery,
)

VOID = {"meta", "link", "input", "br"}
LINES = {
    "zh": "你好，欢迎来我们的茶馆。",
    "yue": "早晨！今日想飲啲乜嘢呀？",
    "en": "Hi there, it's good to see you!",
    "ja": "こんにちは。今日もいい天気ですね。",
    "ko": "안녕하세요!",
    "de": "Die Brötchen sind noch warm.",
    "fr": "Bonjour ! Entrez, je vous en prie.",
}
RUN = RunFacts(
    title="Spring campaign",
    started="2026-11-23T01:28:00+00:00",
    finished="2026-11-23T03:30:21+00:00",
    mode="distill",
    checkpoint="s3://models/magihuman",
    num_done=11873,
    num_dead_lettered=2,
    num_skipped=127,
    clips_per_minute=97.34,
    wall_s=7341,
    versions={"ray": "2.60.0"},
)


class Page(HTMLParser):
    """Elements as (tag, attributes, text inside), checked for balanced tags on the way."""

    def __init__(self, html):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        element = [tag, dict(attrs), ""]
        assert len(attrs) == len(element[1]), f"an attribute stands twice in {self.get_starttag_text()}"
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for element in self._open:
            element[2] += data

    def all(self, tag, **attributes):
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [e for e in self.elements if e[0] == tag and wanted.items() <= e[1].items()]

    def one(self, tag, **attributes):
        (element,) = self.all(tag, **attributes)
        return element


def clip(id="a", language="en", **changes):
    line = DialogueLine(speaker="Presenter", line=LINES[language])
    card = ClipCard(
        id=id,
        status="done",
        language=language,
        prompt="A presenter at a desk.",
        dialogue=(line,),
        width=448,
        height=256,
        resolution="256p",
        aspect="16:9",
        seconds=2.0,
        seed=7,
        stage_seconds={"writing": 0.1, "base_generation": 1.62},
        video_url=f"clips/{id}.mp4",
        poster_url=f"clips/{id}.jpg",
    )
    return replace(card, **changes)


def dead_letter(id="b", **changes):
    failure = Failure("manifest", "seconds", 40, "must be at most 15")
    return replace(ClipCard(id=id, status="dead_lettered", language="de", failure=failure), **changes)


def test_header_tells_totals_and_links():
    page = Page(render_gallery(RUN, [clip()]))
    figures = [dd[2] for dd in page.all("dd")][:5]
    assert figures == ["11,873", "2", "127", "97.3", "2 h 02 min"]
    assert page.one("title")[2] == "Spring campaign"
    links = [a[1]["href"] for a in page.all("a")]
    assert links == ["run.json", "dead_letter.jsonl", "#a"]
    assert [t[1]["datetime"] for t in page.all("time")] == [RUN.started, RUN.finished]


def test_no_link_to_dead_letters_where_there_are_none():
    page = Page(render_gallery(replace(RUN, num_dead_lettered=0), [clip()]))
    assert "dead_letter.jsonl" not in [a[1]["href"] for a in page.all("a")]
    assert page.all("input", type="radio") == []


def test_card_holds_a_native_player_that_keeps_the_aspect_ratio():
    page = Page(render_gallery(RUN, [clip(), clip("tall", width=256, height=448), clip("even", width=320, height=320)]))
    first, tall, even = page.all("video")
    assert first[1]["src"] == "clips/a.mp4"
    assert first[1]["poster"] == "clips/a.jpg"
    assert first[1]["preload"] == "none"
    assert "controls" in first[1]
    assert (first[1]["width"], first[1]["height"], first[1]["style"]) == ("448", "256", "--w:448;--h:256")
    assert [tall[1]["style"], even[1]["style"]] == ["--w:256;--h:448", "--w:320;--h:320"]
    assert [a[1]["class"].split()[1] for a in page.all("article")] == ["wide", "tall", "square"]


def test_a_clip_without_a_poster_has_no_poster_attribute():
    assert "poster" not in Page(render_gallery(RUN, [clip(poster_url=None)])).one("video")[1]


def test_stages_stand_in_the_order_of_the_pipeline_with_their_share():
    page = Page(render_gallery(RUN, [clip()]))
    assert [(i[1]["class"], i[1]["style"]) for i in page.all("i")] == [
        ("base_generation", "--s:1.6200"),
        ("writing", "--s:0.1000"),
    ]
    article = page.one("article")[2]
    assert "1.62 s" in article
    assert "1.72 s" in article  # the sum
    assert "448×256" in article
    assert "seed 7" in article


def test_dialogue_of_every_language_is_marked_and_readable():
    page = Page(render_gallery(RUN, [clip(code, code) for code in LANGUAGES]))
    assert page.one("html")[1]["lang"] == "en"
    assert page.all("meta", charset="utf-8")
    for code, line in LINES.items():
        assert page.one("q", lang=code)[2] == line
    assert [i[1]["value"] for i in page.all("input", name="language")] == list(LANGUAGES)


def test_a_line_in_another_language_than_the_clip_keeps_its_own_mark():
    line = DialogueLine(speaker="Guest", line="Merci !", language="fr")
    assert Page(render_gallery(RUN, [clip(dialogue=(line,))])).one("q", lang="fr")[2] == "Merci !"


def test_dead_letter_shows_field_value_and_reason_and_no_player():
    page = Page(render_gallery(RUN, [clip(), dead_letter()]))
    card = page.one("article", id="b")
    assert card[1]["data-status"] == "dead_lettered"
    for text in ("manifest", "seconds", "40", "must be at most 15"):
        assert text in card[2]
    assert len(page.all("video")) == 1
    assert [i[1]["value"] for i in page.all("input", name="status")] == ["", "done", "dead_lettered"]


def test_long_and_structured_values_are_shown_as_json_and_cut():
    failure = Failure("manifest", "prompt", {"description": "ü" * 1000}, "is too long")
    text = Page(render_gallery(RUN, [dead_letter(failure=failure)])).one("article")[2]
    assert '{"description": "üüü' in text
    assert "ü" * 400 not in text
    assert "…" in text


def test_nothing_from_a_manifest_becomes_markup():
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    line = DialogueLine(speaker=evil, line=evil)
    cards = [
        clip(evil, prompt=evil, dialogue=(line,), language_label=evil, resolution=evil, stage_seconds={evil: 1.0}),
        dead_letter(evil, language=evil, prompt=evil, failure=Failure(evil, evil, {"note": evil}, evil)),
    ]
    run = replace(RUN, title=evil, mode=evil, checkpoint=evil, versions={evil: evil})
    html = render_gallery(run, cards)
    page, plain = Page(html), Page(render_gallery(RUN, [clip(), dead_letter()]))
    assert page.all("img") == []
    assert "<script>alert" not in html
    assert [s[2] for s in page.all("script")] == [s[2] for s in plain.all("script")]
    assert page.one("title")[2] == evil
    assert [a[1]["id"] for a in page.all("article")] == [evil, evil + "~2"]
    for _, attributes, _ in page.elements:
        assert not [name for name in attributes if name.startswith("on")]


def test_paths_are_percent_encoded_and_lead_back_to_the_file():
    name = "clips/50% off #1?&\"'<ü>.mp4"
    source = Page(render_gallery(RUN, [clip(video_url=name)])).one("video")[1]["src"]
    assert not set(source) & set(" #?\"'<>&ü")
    assert unquote(source) == name
    page = Page(render_gallery(RUN, [dead_letter("50% off #1")]))
    assert page.all("a", href="#50%25%20off%20%231")
    assert page.all("article", id="50% off #1")
    assert encode_url("javascript:alert(1)") == "javascript%3Aalert%281%29"


@pytest.mark.parametrize("url", ["https://example.com/a.mp4", "//example.com/a.mp4", "/a.mp4"])
def test_only_paths_relative_to_the_page_are_accepted(url):
    for name in ("video_url", "poster_url"):
        with pytest.raises(ValueError, match=name):
            clip(**{name: url})
    with pytest.raises(ValueError, match="settings_url"):
        replace(RUN, settings_url=url)


def test_page_asks_nothing_of_the_network():
    page = Page(render_gallery(RUN, [clip(), dead_letter()]))
    for tag, attributes, text in page.elements:
        for name in ("src", "href", "poster"):
            assert "//" not in attributes.get(name, ""), (tag, attributes)
        if tag in ("style", "script"):
            assert "src" not in attributes
            assert "url(" not in text
            assert "@import" not in text
            assert "fetch(" not in text
    assert [link[1] for link in page.all("link")] == [{"rel": "icon", "href": "data:,"}]


def test_cards_beyond_the_cap_are_left_to_the_results_file():
    cards = [clip(f"c{index}") for index in range(5)]
    page = Page(render_gallery(RUN, cards, max_cards=3))
    assert [a[1]["id"] for a in page.all("article")] == ["c0", "c1", "c2"]
    note = page.one("p", class_="cap")
    assert "first 3 of 5" in note[2]
    assert "results.parquet" in [a[1]["href"] for a in page.all("a")]
    assert Page(render_gallery(RUN, cards, max_cards=5)).all("p", class_="cap") == []
    assert len(Page(render_gallery(RUN, [clip(f"c{i}") for i in range(1001)])).all("article")) == 1000
    with pytest.raises(ValueError, match="max_cards"):
        render_gallery(RUN, cards, max_cards=0)


def test_language_counts_are_those_of_the_cards_shown():
    page = Page(
        render_gallery(RUN, [clip("a"), clip("b"), clip("c", "ja"), dead_letter("d"), clip("e", "ko")], max_cards=4)
    )
    chips = [label[2].split() for label in page.all("label", class_="chip")]
    assert chips == [
        ["English", "2"],
        ["Japanese", "1"],
        ["German", "1"],
        ["All"],
        ["Done", "3"],
        ["Dead", "letters", "1"],
    ]


def test_an_empty_run_says_so():
    page = Page(render_gallery(RUN, []))
    assert page.one("p", class_="none")[2] == "No clips yet."
    assert "hidden" not in page.one("p", class_="none")[1]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"status": "lost"}, "status"),
        ({"video_url": None}, "video_url"),
        ({"width": None}, "width"),
        ({"failure": Failure("writing", "", None, "disk full")}, "failure"),
    ],
)
def test_contradictory_cards_are_refused(changes, field):
    with pytest.raises(ValueError, match=field):
        clip(**changes)


def test_numbers_for_people():
    assert [format_seconds(value) for value in (0.041, 1.618, 38.44, 120.4)] == ["0.04 s", "1.62 s", "38.4 s", "120 s"]
    assert [format_duration(value) for value in (41.6, 200, 59.7, 18120)] == [
        "42 s",
        "3 min 20 s",
        "1 min 00 s",
        "5 h 02 min",
    ]
    assert format_time("2026-11-23T02:28:00+01:00") == "23 Nov 2026, 01:28 UTC"
    assert format_time("2026-11-23T01:28:00") == "23 Nov 2026, 01:28 UTC"
    with pytest.raises(ValueError, match="yesterday"):
        format_time("yesterday")
