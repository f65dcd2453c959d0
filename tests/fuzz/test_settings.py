"""Settings of any kind: they hold, or one line names what does not."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import Settings, SettingsError, load_settings
from tests.hostile import damage, damages, outcome, repeatable, texts, values

ODD_YAML = [
    *("a: [", "- a", "5", "a: 2001-99-99", "mode: !!python/object/apply:os.system ['true']", "a: !!binary x", "\x00"),
    *(
        "mode: &a [*a]",
        "? [1]\n: 2",
        "1: 2",
        "mode: base\nmode: distill",
        "[" * 3000,
        "threads_per_actor: " + "9" * 5000,
    ),
    *(
        "pools: 3",
        "pools: {decoding: {size: 1.0e+400}}",
        "sampling: {shift: .nan}",
        "mode:\n\tbase",
        "%TAG ! x",
        "\ufeff",
    ),
    "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{c}: &{c} [*{b},*{b},*{b},*{b},*{b},*{b}]\n" for b, c in zip("abcdefgh", "bcdefghi", strict=True)),
]


def names(model, prefix=""):
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            yield from names(inner, f"{prefix}{name}.")
        yield prefix + name


NAMES = sorted(names(Settings))


def require_settings_or_one_line(load):
    settings, error = outcome(load, SettingsError)
    if error is None:
        assert isinstance(settings, Settings)
    else:
        assert str(error).startswith(("setting", "override"))
        assert "\n" not in str(error)
        assert len(str(error)) < 2000


@repeatable(120)
@given(st.sampled_from(NAMES), values)
def test_any_value_of_any_setting(name, value):
    text = yaml.safe_dump(value, allow_unicode=False)
    require_settings_or_one_line(lambda: load_settings(None, [f"{name}={text}"]))


@repeatable(40)
@given(texts)
def test_any_override(text):
    require_settings_or_one_line(lambda: load_settings(None, [text]))


@pytest.mark.slow
@pytest.mark.parametrize("text", ODD_YAML, ids=range(len(ODD_YAML)))
def test_odd_files(tmp_path, text):
    (tmp_path / "s.yaml").write_bytes(text.encode())
    require_settings_or_one_line(lambda: load_settings(str(tmp_path / "s.yaml")))


def test_damaged_files(tmp_path):
    good = yaml.safe_dump(Settings().model_dump(mode="json"), allow_unicode=True).encode()
    path = tmp_path / "s.yaml"
    path.write_bytes(good)
    assert load_settings(str(path)) == Settings()

    @repeatable(40)
    @given(damages())
    def load(how):
        path.write_bytes(damage(good, how))
        require_settings_or_one_line(lambda: load_settings(str(path)))

    load()
