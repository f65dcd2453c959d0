import pytest

from actors.redaction import redact, redact_values


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://me:word@host/a.png", "https://***@host/a.png"),
        ("s3://KEY:SECRET@bucket/a@b.png", "s3://***@bucket/a@b.png"),
        (
            "cannot read https://u:p@h/x: 'https://u:p@h/x' failed",
            "cannot read https://***@h/x: 'https://***@h/x' failed",
        ),
        (
            "https://b.s3.amazonaws.com/a?X-Amz-Credential=AK%2F1&X-Amz-Date=7&X-Amz-Signature=0f3a",
            "https://b.s3.amazonaws.com/a?X-Amz-Credential=***&X-Amz-Date=7&X-Amz-Signature=***",
        ),
        (
            "https://h/a?AWSAccessKeyId=AK&Signature=x%3D&Expires=1",
            "https://h/a?AWSAccessKeyId=***&Signature=***&Expires=1",
        ),
        ("https://a.blob.core.windows.net/c/a?sv=1&sig=abc", "https://a.blob.core.windows.net/c/a?sv=1&sig=***"),
        ("https://h/a?access_token=t#x", "https://h/a?access_token=***#x"),
        ("https://h/a?x-goog-signature=t&a=1: not found", "https://h/a?x-goog-signature=***&a=1: not found"),
        ("s3://bucket/in/m.jsonl?versionId=7", "s3://bucket/in/m.jsonl?versionId=7"),
        ("/data/set/what?=a@b.png", "/data/set/what?=a@b.png"),
        ("A person asks: what is key = 3?", "A person asks: what is key = 3?"),
    ],
)
def test_a_url_is_shown_without_what_opens_it(text, shown):
    assert redact(text) == shown
    assert redact(shown) == shown


def test_every_text_inside_values_is_redacted():
    values = {"a": ["s3://k:s@b/x", 3, None], "b": {"c": "https://h/k.pem?sig=abc"}}
    assert redact_values(values) == {"a": ["s3://***@b/x", 3, None], "b": {"c": "https://h/k.pem?sig=***"}}
