"""What a manifest's author may name, decided on plain text."""

import time

import pytest

from actors.references import AllowedReferences, ReferenceRefused, as_prefix, canonical, folder_of


def resolved(reference, manifest_url, named=None, earlier=()):
    allowed = AllowedReferences.of_manifest(manifest_url, named, earlier)
    return allowed.resolve(reference, folder_of(manifest_url))


@pytest.mark.parametrize(
    ("manifest_url", "prefixes"),
    [
        ("/data/set/m.jsonl", ("/data/set/",)),
        ("/m.jsonl", ("/",)),
        ("file:///data/set/m.jsonl", ("/data/set/",)),
        ("s3://bucket/in/deep/m.jsonl", ("s3://bucket/",)),
        (
            "s3://arn:aws:s3:eu-west-1:1:accesspoint/mine/in/m.jsonl",
            ("s3://arn:aws:s3:eu-west-1:1:accesspoint/mine/in/",),
        ),
        ("memory://bucket/m.jsonl", ("memory://bucket/",)),
        ("https://Host.example:443/a/m.jsonl?X-Amz-Signature=ab/c", ("https://host.example/",)),
        ("https://me:word@host.example:8443/a/m.jsonl", ("https://host.example:8443/",)),
        ("simplecache::s3://bucket/in/m.jsonl", ("simplecache::s3://bucket/",)),
    ],
)
def test_by_default_a_manifest_reaches_its_own_folder_or_bucket(manifest_url, prefixes):
    assert AllowedReferences.of_manifest(manifest_url).prefixes == prefixes


@pytest.mark.parametrize(
    ("reference", "manifest_url", "answer"),
    [
        ("faces/a.png", "/data/set/m.jsonl", "/data/set/faces/a.png"),
        ("faces/../b.png", "/data/set/m.jsonl", "/data/set/b.png"),
        ("/data/set/a.png", "/data/set/m.jsonl", "/data/set/a.png"),
        ("file:///data/set/a.png", "/data/set/m.jsonl", "/data/set/a.png"),
        ("//data/set/a.png", "/data/set/m.jsonl", "/data/set/a.png"),
        ("%2e%2e/a.png", "/data/set/m.jsonl", "/data/set/%2e%2e/a.png"),  # on a disk that is a folder's name
        ("Gerät 你.png", "/data/set/m.jsonl", "/data/set/Gerät 你.png"),
        ("../faces/a.png", "s3://bucket/in/m.jsonl", "s3://bucket/faces/a.png"),
        ("s3://bucket/x/a@b.png", "s3://bucket/in/m.jsonl", "s3://bucket/x/a@b.png"),
        ("a b.png", "https://host.example/in/m.jsonl?sig=x", "https://host.example/in/a%20b.png"),
        ("HTTPS://host.example/a.png", "https://host.example/m.jsonl", None),
        ("https://HOST.example:443/a.png#x", "https://host.example/m.jsonl", "https://host.example/a.png"),
        ("a.png", "simplecache::s3://bucket/in/m.jsonl", "simplecache::s3://bucket/in/a.png"),
    ],
)
def test_what_lies_there_is_written_in_one_way(reference, manifest_url, answer):
    if answer is None:
        with pytest.raises(ReferenceRefused):
            resolved(reference, manifest_url)
    else:
        assert resolved(reference, manifest_url) == answer
        assert canonical(answer) == answer


LOCAL, S3, WEB = "/data/set/m.jsonl", "s3://bucket/in/m.jsonl", "https://host.example/in/m.jsonl"
UNDER = r"must lie under .* \(setting allowed_references\)"
REFUSED = [
    ("../a.png", LOCAL, UNDER),
    ("/etc/passwd", LOCAL, "must lie under /data/set/ "),
    ("file:///etc/passwd", LOCAL, UNDER),
    ("local:///etc/passwd", LOCAL, UNDER),
    ("file://etc/passwd", LOCAL, "must be a URL, or a path from '/'"),
    ("/data/set/../other/a.png", LOCAL, UNDER),
    ("/data/set", LOCAL, UNDER),
    ("/data/setting/a.png", LOCAL, UNDER),
    ("~/a.png", LOCAL, "'~' is not known"),
    ("~root/a.png", LOCAL, "'~' is not known"),
    ("s3://other/a.png", LOCAL, UNDER),
    ("http://169.254.169.254/latest/meta-data/", LOCAL, UNDER),
    ("c://windows/a.png", LOCAL, "must begin with the name of a store"),
    ("/x://etc/passwd", LOCAL, "must begin with the name of a store"),
    ("simplecache::/data/set/a.png", LOCAL, UNDER),
    ("simplecache::file:///etc/passwd", LOCAL, UNDER),
    ("zip://a.png::/data/set/a.zip", LOCAL, UNDER),
    ("a.zip::b", LOCAL, UNDER),
    ("memory://a.png", LOCAL, UNDER),
    ("reference://a.png", LOCAL, UNDER),
    ("github://owner:repo@main/a.png", LOCAL, "must not hold a user name or a password"),
    ("a\x00.png", LOCAL, r"must not hold control characters, got U\+0000"),
    ("a\n.png", LOCAL, r"got U\+000A at character 2"),
    ("a\u202egnp.exe", LOCAL, r"got U\+202E"),
    ("\ud83d.png", LOCAL, r"got U\+D83D"),
    ("a" * 5000, LOCAL, "must be at most 4,096 characters long, got 5,000"),
    ("/etc/passwd", S3, "must lie under s3://bucket/ "),
    ("file:///etc/passwd", S3, UNDER),
    ("../../other/a.png", S3, "it leaves s3://bucket"),
    ("s3://bucket/../other/a.png", S3, "must not hold '.' or '..' between slashes"),
    ("s3://bucket/%2e%2e/other/a.png", S3, "must not hold '.'"),
    ("s3://bucket/%252e%252e%252fother", S3, "must not hold '.'"),
    ("s3://bucket/x\\..\\..\\other", S3, "must not hold '.'"),
    ("s3://bucket-of-others/a.png", S3, UNDER),
    ("S3://bucket/a.png", S3, "must begin with the name of a store in lower case"),
    ("s3:///a.png", S3, "must name a bucket or host"),
    ("s3://key:secret@bucket/a.png", S3, "must not hold a user name or a password"),
    ("x::memory://y", S3, UNDER),
    ("https://host.example@evil.example/a.png", WEB, "must not hold a user name"),
    ("https://host.example\\@evil.example/a.png", WEB, "must not hold a user name|backslash"),
    ("https://host.example.evil.example/a.png", WEB, UNDER),
    ("https://host.example:8443/a.png", WEB, UNDER),
    ("http://host.example/a.png", WEB, UNDER),
    ("https://host.example:x/a.png", WEB, "must be a URL"),
    ("https://[::1/a.png", WEB, "must be a URL"),
    ("https://höst.example/a.png", WEB, "must name its host in ASCII"),
]


@pytest.mark.parametrize(("reference", "manifest_url", "reason"), REFUSED)
def test_what_lies_elsewhere_is_refused_with_what_is_allowed(reference, manifest_url, reason):
    with pytest.raises(ReferenceRefused, match=reason) as caught:
        resolved(reference, manifest_url)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0", "100.64.0.1"),
        *("224.0.0.1", "[::1]", "[fe80::1]", "[fd00:ec2::254]", "[::ffff:127.0.0.1]", "[64:ff9b::a9fe:a9fe]"),
        "[2002:a00:1::]",
    ],
)
def test_where_any_host_is_allowed_an_address_must_be_public(host):
    allowed = AllowedReferences.of_manifest("/m.jsonl", ["https://", "http://"])
    with pytest.raises(ReferenceRefused, match="which is no public address"):
        allowed.resolve(f"http://{host}/a.png", "/")
    named = AllowedReferences.of_manifest("/m.jsonl", ["https://", f"http://{host}/"])
    assert named.resolve(f"http://{host}/a.png", "/")
    assert allowed.resolve("https://93.184.216.34/a.png", "/") == "https://93.184.216.34/a.png"
    assert allowed.resolve("https://[2606:4700::1111]/a.png", "/") == "https://[2606:4700::1111]/a.png"


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0x7f.1"])
def test_an_address_in_disguise_is_refused(host):
    allowed = AllowedReferences.of_manifest("/m.jsonl", ["http://"])
    with pytest.raises(ReferenceRefused, match="must write an address as four decimal numbers"):
        allowed.resolve(f"http://{host}/a.png", "/")


def test_a_setting_takes_the_place_of_the_default():
    named = [".", "faces", "s3://assets/faces/", "simplecache::s3://assets/sounds"]
    for reference in ("a.png", "s3://assets/faces/a.png", "simplecache::s3://assets/sounds/a.wav"):
        assert resolved(reference, "s3://bucket/in/m.jsonl", named)
    for reference in (
        *("../a.png", "s3://assets/a.png", "s3://assets/facesx/a.png", "simplecache::s3://assets/a.wav"),
        *("simplecache::s3://assets/sounds/../a.wav", "simplecache::s3://assets/sounds/x::file:///etc/passwd"),
    ):
        with pytest.raises(ReferenceRefused):
            resolved(reference, "s3://bucket/in/m.jsonl", named)
    with pytest.raises(ReferenceRefused, match="must lie under no folder at all"):
        resolved("a.png", "/data/m.jsonl", [])
    assert resolved("/etc/a.png", "/data/m.jsonl", ["/"]) == "/etc/a.png"
    assert resolved("s3://any/a.png", "/data/m.jsonl", ["s3://"]) == "s3://any/a.png"
    with pytest.raises(ReferenceRefused, match=r"must lie under one of /a/, .*, 2 more \(setting"):
        resolved("/etc/a.png", "/m.jsonl", [f"/{letter}" for letter in "abcdefg"])


def test_dead_letters_reach_what_earlier_runs_into_the_output_reached():
    mended, image = "/out/mended.jsonl", "/data/set/a.png"
    assert resolved(image, mended, None, ["/data/set/"]) == image
    with pytest.raises(ReferenceRefused):
        resolved(image, mended)
    with pytest.raises(ReferenceRefused):
        resolved(image, mended, ["/elsewhere"], ["/data/set/"])


@pytest.mark.parametrize("folder", ["", "  ", "*", "s3://*", "a\nb", "s3://key:secret@bucket", "://", "S3://"])
def test_what_is_no_folder_is_no_setting(folder):
    with pytest.raises(ValueError, match="must") as caught:
        as_prefix(folder)
    assert "secret" not in str(caught.value)


def test_a_million_rows_are_judged_in_little_time():
    allowed = AllowedReferences.of_manifest("s3://bucket/in/m.jsonl")
    started = time.perf_counter()
    for number in range(20_000):
        allowed.resolve(f"faces/{number}.png", "s3://bucket/in")
    assert time.perf_counter() - started < 4, "4 s would be 200 s for a million"
