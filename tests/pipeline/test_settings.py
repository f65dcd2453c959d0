import pytest

from pipeline.settings import Settings, SettingsError, load_settings


def test_defaults_are_the_releases():
    sampling = Settings().sampling
    assert (sampling.base("distill").num_steps, sampling.base("base").num_steps) == (8, 32)
    assert sampling.super_resolution().num_steps == 5
    assert sampling.super_resolution().guidance is None
    assert sampling.super_resolution().align_corners is True
    assert sampling.base("base").video_guidance == 5.0


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("mode: base\npools:\n  decoding: {size: 2}\n")
    settings = load_settings(
        str(path), ["pools.decoding.size=3", "sampling.base_steps=4", "sampling.sr_align_corners=false"]
    )
    assert settings.mode == "base"
    assert settings.pools.decoding.size == 3
    assert settings.sampling.base_steps == 4
    assert settings.sampling.super_resolution().align_corners is False


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mode=fast", r"setting mode='fast': .*'base' or 'distill'"),
        ("pools.decoding.size=0", r"setting pools\.decoding\.size=0: .*greater than or equal to 1"),
        ("sampling.steps=4", r"setting sampling\.steps is unknown"),
        ("mode", r"override 'mode': must look like name=value"),
        ("mode.x.y=1", r"setting mode="),
    ],
)
def test_a_bad_setting_is_one_clear_line(override, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(None, [override])
    assert "\n" not in str(caught.value)


def test_guidance_of_super_resolution_needs_a_negative_prompt():
    with pytest.raises(
        SettingsError, match=r"setting sampling\.negative_prompt='': .*must not be empty where"
    ) as caught:
        load_settings(None, ["sampling.negative_prompt=''", "sampling.sr_guidance=3.5"])
    assert "\n" not in str(caught.value)
    assert load_settings(None, ["sampling.negative_prompt=''"]).sampling.negative_prompt == ""
    assert load_settings(None, ["sampling.sr_guidance=3.5"]).sampling.super_resolution().guidance == 3.5


def test_an_absent_or_broken_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"settings .*absent\.yaml"):
        load_settings(str(tmp_path / "absent.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match=r"settings .*broken\.yaml"):
        load_settings(str(tmp_path / "broken.yaml"))
