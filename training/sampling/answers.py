"""The gate's prompts, and what pinned versions answer to them.

Answers are kept, since a version never changes: a resumed job asks only for what is missing, and what a version said
to the built-in prompts serves the next job too. Answers to people's prompts stay in the job's own folder.
"""

import hashlib
import json
import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from feedback.errors import FeedbackError
from feedback.ids import BASE_VERSION, Version
from training.errors import TrainingError
from training.examples.asked import Prompt, with_room
from training.examples.tokens import ChatTokens
from training.judging.prompts import everyday
from training.sampling.gateway import Ask, Gateway, Sample, SamplingSettings
from training.worker.attempt import Attempt

log = logging.getLogger("training.sampling.answers")


class Samples:
    """The gate's prompts and the versions' answers to them."""

    def __init__(self, attempt: Attempt, asked: list[Prompt], tokens: ChatTokens) -> None:
        gate = attempt.settings.gate
        self._attempt = attempt
        self._asked = asked
        self._tokens = tokens
        self._settings = SamplingSettings(gate.temperature, gate.max_tokens, gate.concurrency)
        self._ahead: threading.Thread | None = None

    @cached_property
    def _own(self) -> list[Prompt]:
        """People's prompts that the engine has room for."""
        context_tokens = self._attempt.gateway.context_tokens()
        fitting = with_room(self._asked, self._tokens, context_tokens, self._settings.max_tokens)
        return fitting[: self._attempt.settings.gate.prompts // 2]

    @cached_property
    def _all(self) -> list[Prompt]:
        return [*self._own, *(({"role": "user", "content": text},) for text in everyday())]

    @property
    def max_rounds(self) -> int:
        return max(1, len(self._all) // self._attempt.settings.gate.prompts)

    def prompts(self, rounds: int) -> list[Prompt]:
        """The first `rounds` times the gate's number of prompts."""
        return self._all[: rounds * self._attempt.settings.gate.prompts]

    def answers(self, version: Version, prompts: list[Prompt]) -> list[Sample]:
        """One answer of a version to each prompt; what is already kept is not asked again."""
        attempt = self._attempt
        own = SampleStore(attempt.folder / "samples", self._settings)
        shared = SampleStore(shared_folder(attempt), self._settings)
        gateway, n = attempt.gateway, len(self._own)
        questions = [Question(prompt) for prompt in prompts]

        def look_up(*_: object) -> None:
            attempt.check_stop()

        return [
            *own.collect(gateway, version, questions[:n], look_up),
            *shared.collect(gateway, version, questions[n:], look_up),
        ]

    def fetch_ahead(self) -> None:
        """Ask base and live while training runs: the engine works on another core."""

        def fetch() -> None:
            try:
                for version in dict.fromkeys((BASE_VERSION, self._attempt.registry.view().live)):
                    self.answers(version, self.prompts(1))
            except (TrainingError, FeedbackError) as error:  # only a head start; evaluation asks again
                log.info("answers not fetched ahead: %s", error)

        self._ahead = threading.Thread(target=fetch, daemon=True, name="fetch-ahead")
        self._ahead.start()

    def wait_ahead(self) -> None:
        """Return once nothing is being asked ahead any more."""
        while self._ahead is not None and self._ahead.is_alive():
            self._attempt.check_stop()
            self._ahead.join(0.5)


def shared_folder(attempt: Attempt) -> Path:
    """Where answers to the built-in prompts are kept: v0000-base is another model on each base, and so on each line."""
    settings = attempt.settings
    return settings.home / "samples" / settings.line.name / attempt.job.base_digest[:12]


@dataclass(frozen=True)
class Question:
    """A prompt, and which of the answers to it is meant where there are several."""

    prompt: Prompt
    nth: int = 0

    @property
    def key(self) -> str:
        """Names the question without repeating what a person wrote."""
        named = json.dumps(self.prompt, sort_keys=True) + (f"#{self.nth}" if self.nth else "")
        return hashlib.sha256(named.encode()).hexdigest()

    @property
    def seed(self) -> int:
        """A seed of the question's own, the same for every version and in every job."""
        return int(self.key[:8], 16)


class SampleStore:
    """Answers of pinned versions, one JSON line each, in a file per version and sampling settings.

    Answers with log-probs have files of their own, since a kept one without cannot stand in for one with.
    """

    def __init__(self, folder: Path, settings: SamplingSettings) -> None:
        self._folder = folder
        self._name = f"t{settings.temperature:g}-m{settings.max_tokens}" + ("-logprobs" if settings.logprobs else "")
        self._settings = settings

    def collect(
        self,
        gateway: Gateway,
        version: Version,
        questions: Sequence[Question],
        on_answer: Callable[[int, Sample], None],
    ) -> list[Sample]:
        """One answer per question: those that are kept, then those that had to be asked for.

        `on_answer` gets each question's place and answer as they come; what it raises ends the asking.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{version}-{self._name}.jsonl"
        kept = _read(path)
        places: dict[str, list[int]] = defaultdict(list)
        for place, question in enumerate(questions):
            places[question.key].append(place)
        for key in [key for key in places if key in kept]:
            for place in places[key]:
                on_answer(place, kept[key])
        missing = [key for key in places if key not in kept]
        asks = [Ask(version, questions[places[key][0]].prompt, questions[places[key][0]].seed) for key in missing]
        with path.open("a", encoding="utf-8") as sink:

            def keep(nth: int, sample: Sample) -> None:
                key = missing[nth]
                kept[key] = sample
                sink.write("\n" + json.dumps({"prompt": key, **asdict(sample)}))
                sink.flush()
                for place in places[key]:
                    on_answer(place, sample)

            if asks:
                gateway.sample(asks, self._settings, keep)
        return [kept[question.key] for question in questions]


def _read(path: Path) -> dict[str, Sample]:
    """Kept samples by prompt, with log-probs where they were asked for.

    A line that a kill cut short and what is no whole answer are passed over, to be asked again.
    """
    kept: dict[str, Sample] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            logprobs = tuple(row.get("logprobs", ()))
            sample = Sample(row["text"], tuple(row["token_ids"]), row["finish_reason"], logprobs)
            if sample.is_whole:
                kept[row["prompt"]] = sample
    return kept
