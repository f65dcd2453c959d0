"""Evaluation of a finished run: its clips are read and judged in parallel, and figures are made of them."""

from __future__ import annotations

import multiprocessing
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import ValidationError

from actors.clip_files import clip_name
from actors.evaluation.clips import Asked, ClipJudge, JudgedClip, is_english_digit, spoken_language
from actors.evaluation.transcribing import DigitRecogniser, WhisperRecogniser, error_rate
from actors.request import ClipRequest, describe_validation_error
from actors.small_world.listening import UnseenVoice, WordRecogniser, hear_unseen_voice, speak_references
from actors.small_world.speech import SpeechError
from actors.storage import StorageError, join, list_names, read_bytes
from pipeline.figures import Figures, figures_by_language
from pipeline.helper_process import begin_to_help
from pipeline.ledger import DEAD_LETTER_NAME, Ledger

_IN_FLIGHT = 4


class EvaluationError(Exception):
    """A run cannot be evaluated."""


class EvaluationBrokenError(EvaluationError):
    """An evaluation ended before every clip was judged."""


@dataclass(frozen=True)
class EvaluationSpec:
    """What to evaluate, and how.

    Attributes:
        output_url: folder of a run.
        num_workers: processes that judge clips; 1 judges in this one.
        whisper: folder of a Whisper checkpoint, or None.
    """

    output_url: str
    num_workers: int
    whisper: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """What was found out about a run.

    Attributes:
        output_url: of the run.
        clips: judged, by id.
        num_dead_letters: rows of the last manifest that did not become clips.
        recogniser: of speech: "Whisper", "pocketsphinx" or "".
        unseen_voice: how words are heard in it; None where none were listened for.
        figures: by language, and of all.
        notes: what was left out, and why.
    """

    output_url: str
    clips: tuple[JudgedClip, ...]
    num_dead_letters: int
    recogniser: str
    unseen_voice: UnseenVoice | None
    figures: dict[str, Figures]
    notes: tuple[str, ...]


def evaluate(spec: EvaluationSpec, on_judged: Callable[[int, int], None] = lambda done, total: None) -> Evaluation:
    """Judge every finished clip of a run.

    Args:
        spec: which run, and how.
        on_judged: called with how many clips are judged, and how many there are.

    Raises:
        EvaluationError: if the run holds no finished clip.
        EvaluationBrokenError: if a process that judges clips is killed.
        StorageError: the store refuses or is out of reach.
        ValueError: if the Whisper checkpoint cannot be loaded.
    """
    whisper = WhisperRecogniser(spec.whisper) if spec.whisper else None
    notes: list[str] = []
    requests = _read_requests(spec.output_url, notes)
    if not requests:
        reasons = "; ".join([f"output {spec.output_url} holds no finished clips", *notes])
        raise EvaluationError(f"{reasons}; jobs.generate makes them")
    asked = [one for request in requests if not (one := Asked.of(request)).is_driven]
    words, unseen_voice = _listener(asked, spec.num_workers, notes)
    wants_digits = whisper is None and any(is_english_digit(one.word) for one in asked)
    judge = ClipJudge(words, recognises_digits=wants_digits, keeps_sound=whisper is not None)
    clips: list[JudgedClip] = []
    try:
        for clip in _judged(judge, spec, requests):
            clips.append(_transcribed(clip, whisper, notes))
            on_judged(len(clips), len(requests))
    except BrokenProcessPool as error:
        reason = f"a process was killed when {len(clips)} of {len(requests)} clips were judged"
        raise EvaluationBrokenError(f"{reason}; where memory is short, fewer --num-workers need less") from error
    originals = {}
    if wants_digits and words is not None:
        originals["en"] = _original_digit_error_rate(spec.num_workers)
    return Evaluation(
        output_url=spec.output_url,
        clips=tuple(clips),
        num_dead_letters=_count_dead_letters(spec.output_url),
        recogniser="Whisper" if whisper else "pocketsphinx" if wants_digits else "",
        unseen_voice=unseen_voice,
        figures=figures_by_language(clips, unseen_voice, originals),
        notes=tuple(notes),
    )


def _read_requests(output_url: str, notes: list[str]) -> list[ClipRequest]:
    """Requests of the finished clips, in the order of their ids; nothing else of the records is kept."""
    ledger = Ledger(output_url)
    ids = ledger.committed_ids()
    requests, num_records = [], 0
    for record in ledger.records(ids):
        num_records += 1
        try:
            requests.append(ClipRequest.model_validate(record.get("request")))
        except ValidationError as error:
            field, _, reason = describe_validation_error(error)
            notes.append(f"left out: {record['id']}, whose request is not valid: {field} {reason}")
    if num_records < len(ids):
        notes.insert(0, f"left out: {len(ids) - num_records} of {len(ids)} records are damaged or of another version")
    return requests


def _listener(
    asked: Sequence[Asked], num_workers: int, notes: list[str]
) -> tuple[WordRecogniser | None, UnseenVoice | None]:
    if not any(one.word for one in asked):
        notes.append("words: no clip asks for a word of the small world")
        return None, None
    try:
        words = WordRecogniser.of_small_world(num_workers)
        return words, hear_unseen_voice(words, num_workers)
    except SpeechError as error:
        notes.append(f"words: left out, {error}")
        return None, None


def _original_digit_error_rate(num_threads: int) -> float:
    recogniser = DigitRecogniser()
    spoken = [(word, sound) for word, sound in speak_references(num_threads) if is_english_digit(word)]
    heard = [recogniser.transcribe(sound) for _, sound in spoken]
    return error_rate([word.line for word, _ in spoken], heard, "en") or 0.0


def _transcribed(clip: JudgedClip, whisper: WhisperRecogniser | None, notes: list[str]) -> JudgedClip:
    """The clip with what Whisper hears in it, and without its sound, which would fill the memory."""
    if whisper is None or clip.sound_S is None:
        return clip
    if not whisper.knows(clip.language):
        note = f"Whisper: this checkpoint does not know {clip.language}"
        notes.extend([note] if note not in notes else [])
        return replace(clip, sound_S=None)
    return replace(clip, transcript=whisper.transcribe(clip.sound_S, clip.language), sound_S=None)


def _count_dead_letters(output_url: str) -> int:
    if DEAD_LETTER_NAME not in list_names(output_url):
        return 0
    return sum(bool(line.strip()) for line in read_bytes(join(output_url, DEAD_LETTER_NAME)).splitlines())


def _judged(judge: ClipJudge, spec: EvaluationSpec, requests: Sequence[ClipRequest]) -> Iterator[JudgedClip]:
    """Judged clips in the order of the requests."""
    num_workers = min(spec.num_workers, len(requests))
    if num_workers == 1:
        yield from (_judge_one(judge, spec.output_url, request) for request in requests)
        return
    # Not forked: this process has threads of torch and of the store's client.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, context, _start_worker, (pickle.dumps(judge),)) as pool:
        waiting: deque[Future[JudgedClip]] = deque()
        try:
            for request in requests:
                waiting.append(pool.submit(_judge_in_worker, spec.output_url, request))
                if len(waiting) >= _IN_FLIGHT * num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _judge_one(judge: ClipJudge, output_url: str, request: ClipRequest) -> JudgedClip:
    try:
        mp4 = read_bytes(join(output_url, clip_name(request.id, "mp4")))
    except StorageError as error:
        asked, language = Asked.of(request), spoken_language(request)
        return JudgedClip(request.id, language, request.resolution, asked, problem=str(error))
    return judge.judge(request, mp4)


_worker: dict[str, Any] = {}


def _start_worker(judge: bytes) -> None:
    begin_to_help()
    torch.set_num_threads(1)
    _worker["judge"] = pickle.loads(judge)


def _judge_in_worker(output_url: str, request: ClipRequest) -> JudgedClip:
    return _judge_one(_worker["judge"], output_url, request)
