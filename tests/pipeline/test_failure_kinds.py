from actors.row import Failure
from pipeline import failure_kinds as module
from pipeline.failure_kinds import FailureKind, FailureKinds


def test_failures_that_differ_in_values_alone_are_one_kind():
    kinds = FailureKinds()
    for number in range(5):
        reason = f"cannot read s3://in/{number}.png after {number} tries ('face-{number}', 0x{number}f)"
        kinds.add(Failure("conditioning", "image", f"{number}.png", reason))
    kinds.add(Failure("decoding", "image", None, "cannot read s3://in/0.png after 0 tries ('face-0', 0x0f)"))
    kinds.add(Failure("manifest", "language", "it", "is missing"))
    first, *others = kinds.most_frequent()
    assert first == FailureKind("conditioning", "image", "cannot read s3://in/0.png after 0 tries ('face-0', 0x0f)", 5)
    assert [kind.num for kind in others] == [1, 1]


def test_their_number_and_size_are_bounded_and_secrets_hidden(monkeypatch):
    monkeypatch.setattr(module, "MOST_KINDS", 30)
    kinds = FailureKinds()
    for first in "abcdefgh":
        for second in "abcdefgh":
            kinds.add(Failure("decoding", "", None, f"{first}{second} " + "x" * 9999))
    kinds.add(Failure("decoding", "", None, "aa " + "x" * 9999))
    told = kinds.most_frequent()
    assert len(kinds._kinds) == 30
    assert len(told) == module.NUM_TOLD
    assert told[0].num == 2
    assert len(told[0].reason) < 400
    kinds = FailureKinds()
    kinds.add(Failure("conditioning", "image", None, "cannot read https://h.example/a.png?X-Amz-Signature=0f3a"))
    assert "0f3a" not in kinds.most_frequent()[0].reason
