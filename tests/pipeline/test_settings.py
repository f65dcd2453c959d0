from dataclasses import replace

import pytest

from actors.credentials import Credentials
from actors.video_encoding import VideoEncoding
from model.capabilities import Samplers
from model.sampling import DistilledSampling, GuidedSampling, SuperResolutionSampling
from pipeline.settings import SettingsError, load_settings


def samplers(*overrides, of=None):
    return load_settings(None, overrides).sampling.samplers(of or Samplers())


def test_defaults_are_the_releases():
    assert samplers() == Samplers()
    assert (samplers().of_mode("distill").num_steps, samplers().of_mode("base").num_steps) == (8, 32)
    assert samplers().super_resolution.num_steps == 5
    assert samplers().super_resolution.guidance is None
    assert samplers().super_resolution.align_corners is True
    assert samplers().base.video_guidance == 5.0


TUNED = Samplers(
    base=GuidedSampling(num_steps=25, shift=3.0, video_guidance=2.0, late_video_guidance=1.5, audio_guidance=2.5),
    distill=DistilledSampling(num_steps=4, shift=2.0),
    super_resolution=SuperResolutionSampling(num_steps=3, shift=1.5, noise_index=100, guidance=2.0),
)


def test_a_checkpoints_samplers_hold_where_settings_say_nothing():
    assert samplers(of=TUNED) == TUNED
    assert samplers("sampling.base_steps=9", of=TUNED) == replace(TUNED, base=replace(TUNED.base, num_steps=9))
    changed = samplers("sampling.distill_steps=9", "sampling.sr_steps=2", "sampling.sr_align_corners=false", of=TUNED)
    assert changed.distill == DistilledSampling(num_steps=9, shift=2.0)
    assert changed.super_resolution == replace(TUNED.super_resolution, num_steps=2, align_corners=False)
    changed = samplers(
        *("sampling.video_guidance=7", "sampling.late_video_guidance=6", "sampling.audio_guidance=0"), of=TUNED
    )
    assert changed.base == replace(TUNED.base, video_guidance=7.0, late_video_guidance=6.0, audio_guidance=0.0)


def test_one_shift_is_for_all_samplers_unless_super_resolution_has_its_own():
    def shifts(*overrides):
        chosen = samplers(*overrides, of=TUNED)
        return (chosen.base.shift, chosen.distill.shift, chosen.super_resolution.shift)

    assert shifts() == (3.0, 2.0, 1.5)
    assert shifts("sampling.shift=4") == (4.0, 4.0, 4.0)
    assert shifts("sampling.shift=4", "sampling.sr_shift=6") == (4.0, 4.0, 6.0)
    assert shifts("sampling.sr_shift=6") == (3.0, 2.0, 6.0)


def test_guidance_of_super_resolution_can_be_switched_off():
    assert samplers(of=TUNED).super_resolution.guidance == 2.0
    assert samplers("sampling.sr_guidance=0", of=TUNED).super_resolution.guidance is None
    assert samplers("sampling.sr_guidance=0") == Samplers()


@pytest.mark.parametrize("mode", ["base", "distill"])
def test_books_show_every_number_and_give_the_same_samplers_again(mode):
    for overrides in ([], ["sampling.sr_guidance=0", "sampling.base_steps=7"]):
        sampling = load_settings(None, overrides).sampling
        booked = sampling.resolved(mode, sampling.samplers(TUNED))
        again = booked.samplers(TUNED)
        assert again.of_mode(mode) == sampling.samplers(TUNED).of_mode(mode)
        assert again.super_resolution == sampling.samplers(TUNED).super_resolution
        assert booked.base_steps == (7 if overrides else 25)
        assert booked.shift == (3.0 if mode == "base" else 2.0)
        unset = [name for name, value in booked.model_dump().items() if value is None]
        assert unset == []


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "settings.yaml"
    path.write_text("mode: base\npools:\n  decoding: {size: 2}\n")
    settings = load_settings(
        str(path), ["pools.decoding.size=3", "sampling.base_steps=4", "sampling.sr_align_corners=false"]
    )
    assert settings.mode == "base"
    assert settings.pools.decoding.size == 3
    assert settings.sampling.base_steps == 4
    assert settings.sampling.sr_align_corners is False
    assert settings.sampling.distill_steps is None, "left to the checkpoint"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("mode=fast", r"setting mode='fast': .*'base' or 'distill'"),
        ("pools.decoding.size=0", r"setting pools\.decoding\.size=0: .*greater than or equal to 1"),
        ("sampling.steps=4", r"setting sampling\.steps is unknown; known here: base_steps, distill_steps, "),
        ("pools.decodign.size=1", r"setting pools\.decodign is unknown; known here: conditioning, base_generation, "),
        ("num_gpu=1", r"setting num_gpu is unknown; known here: mode, .*, num_gpus, "),
        ("mode", r"override 'mode': must look like name=value"),
        ("mode.x.y=1", r"setting mode="),
        ("encoding.codec=av1", r"setting encoding\.codec='av1': .*'libx264' or 'h264_nvenc'"),
        ("encoding.threads=0", r"setting encoding\.threads=0: .*greater than or equal to 1"),
        ("encoding.preset=p4", r"setting encoding=.*preset 'p4' is not allowed with libx264: one of ultrafast"),
        (
            "provenance.certificate=c.pem",
            r"setting provenance=.*private_key is missing: certificate and private_key go",
        ),
        (
            "provenance.private_key=k.pem",
            r"setting provenance=.*certificate is missing: certificate and private_key go",
        ),
        (
            "provenance.timestamp_authority=http://tsa.example",
            r"setting provenance=.*timestamp_authority needs certificate and private_key",
        ),
        ("provenance.timestamp_authority=tsa.example", r"setting provenance\.timestamp_authority='tsa\.example': "),
    ],
)
def test_a_bad_setting_is_one_clear_line(override, message):
    with pytest.raises(SettingsError, match=message) as caught:
        load_settings(None, [override])
    assert "\n" not in str(caught.value)


def test_what_a_codec_has_of_its_own_follows_the_codec():
    assert load_settings(None).encoding.video_encoding() == VideoEncoding()
    nvenc = load_settings(None, ["encoding.codec=h264_nvenc"]).encoding
    assert (nvenc.preset, nvenc.threads, nvenc.crf) == ("p4", 1, 18)
    assert load_settings(None, ["encoding.codec=h264_nvenc", "encoding.preset=p7"]).encoding.preset == "p7"
    for override, message in (("preset=fast", "preset 'fast'"), ("threads=4", "threads 4"), ("crf=0", "crf 0")):
        with pytest.raises(SettingsError, match=f"{message} is not allowed with h264_nvenc"):
            load_settings(None, ["encoding.codec=h264_nvenc", f"encoding.{override}"])


def test_guidance_of_super_resolution_needs_a_negative_prompt():
    message = r"setting sampling\.negative_prompt='': must not be empty where super-resolution has guidance, here "
    with pytest.raises(SettingsError, match=message + "3.5") as caught:
        load_settings(None, ["sampling.negative_prompt=''", "sampling.sr_guidance=3.5"])
    assert "\n" not in str(caught.value)
    with pytest.raises(SettingsError, match=message + "2"):
        samplers("sampling.negative_prompt=''", of=TUNED)
    assert samplers("sampling.negative_prompt=''") == Samplers()
    assert samplers("sampling.sr_guidance=3.5").super_resolution.guidance == 3.5


def test_an_absent_or_broken_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match=r"settings .*absent\.yaml"):
        load_settings(str(tmp_path / "absent.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(SettingsError, match=r"settings .*broken\.yaml"):
        load_settings(str(tmp_path / "broken.yaml"))


def test_paths_of_credentials_mean_the_same_to_driver_and_actors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = ["provenance.certificate=chain.pem", "provenance.private_key=s3://bucket/key.pem"]
    credentials = load_settings(None, overrides).provenance.credentials
    assert credentials == Credentials(str(tmp_path / "chain.pem"), "s3://bucket/key.pem")
    assert load_settings(None).provenance.credentials is None


def test_what_opens_a_url_is_not_in_the_line_that_refuses_it():
    with pytest.raises(SettingsError, match=r"private_key': 'https://host/k\.pem\?sig=\*\*\*'") as caught:
        load_settings(None, ["provenance.private_key='https://host/k.pem?sig=0f3a'"])
    assert "0f3a" not in str(caught.value)
