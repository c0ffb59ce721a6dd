"""The gate's prompts, and what pinned versions answer to them.

Answers are kept, since a version never changes: a resumed job asks only for what is missing, and what a version said
to the built-in prompts serves the next job too. Answers to people's prompts stay in the job's own folder.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from feedback.errors import FeedbackError
from feedback.ids import BASE_VERSION, Version
from feedback.turns import Message
from training.attempt import Attempt
from training.errors import TrainingError
from training.gateway import Ask, Gateway, Sample, SamplingSettings
from training.prompts import everyday

log = logging.getLogger("training.answers")

Prompt = tuple[Message, ...]


class Samples:
    """The gate's prompts and the versions' answers to them."""

    def __init__(self, attempt: Attempt, asked: list[Prompt]) -> None:
        gate = attempt.settings.gate
        self._attempt = attempt
        self._settings = SamplingSettings(gate.temperature, gate.max_tokens, gate.concurrency)
        built_in: list[Prompt] = [({"role": "user", "content": text},) for text in everyday()]
        own = asked[: gate.prompts // 2]
        self._all = own + built_in
        self._n_own = len(own)
        self._ahead: threading.Thread | None = None
        self.max_rounds = max(1, len(self._all) // gate.prompts)

    def prompts(self, rounds: int) -> list[Prompt]:
        """The first `rounds` times the gate's number of prompts."""
        return self._all[: rounds * self._attempt.settings.gate.prompts]

    def answers(self, version: Version, prompts: list[Prompt]) -> list[Sample]:
        """One answer of a version to each prompt; what is already kept is not asked again."""
        attempt = self._attempt
        own = SampleStore(attempt.folder / "samples", self._settings)
        shared = SampleStore(shared_folder(attempt), self._settings)
        gateway, n = attempt.gateway, self._n_own
        return [
            *own.collect(gateway, version, prompts[:n], attempt.check_stop),
            *shared.collect(gateway, version, prompts[n:], attempt.check_stop),
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


class SampleStore:
    """Answers of pinned versions, one JSON line each, in a file per version and sampling settings.

    Answers with log-probs have files of their own, since a kept one without cannot stand in for one with.
    """

    def __init__(self, folder: Path, settings: SamplingSettings) -> None:
        self._folder = folder
        self._name = f"t{settings.temperature:g}-m{settings.max_tokens}" + ("-logprobs" if settings.logprobs else "")
        self._settings = settings

    def collect(
        self, gateway: Gateway, version: Version, prompts: Sequence[Prompt], on_answer: Callable[[], None]
    ) -> list[Sample]:
        """One answer per prompt, those that are kept and those that had to be asked for; `on_answer` after each."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{version}-{self._name}.jsonl"
        kept = _read(path)
        by_key = {_key(prompt): prompt for prompt in prompts}
        missing = [key for key in by_key if key not in kept]
        asks = [Ask(version, by_key[key], seed=_seed(key)) for key in missing]
        with path.open("a", encoding="utf-8") as sink:

            def keep(place: int, sample: Sample) -> None:
                kept[missing[place]] = sample
                sink.write("\n" + json.dumps({"prompt": missing[place], **asdict(sample)}))
                sink.flush()
                on_answer()

            gateway.sample(asks, self._settings, keep)
        return [kept[_key(prompt)] for prompt in prompts]


def _key(prompt: Prompt) -> str:
    """Names a prompt without repeating what a person wrote."""
    return hashlib.sha256(json.dumps(prompt, sort_keys=True).encode()).hexdigest()


def _seed(key: str) -> int:
    """A seed of the prompt's own, the same for every version and in every job."""
    return int(key[:8], 16)


def _read(path: Path) -> dict[str, Sample]:
    """Kept samples by prompt. A last line that a kill cut short is passed over; older rows have no log-probs."""
    kept: dict[str, Sample] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue
            logprobs = tuple(row.get("logprobs", ()))
            kept[row["prompt"]] = Sample(row["text"], tuple(row["token_ids"]), row["finish_reason"], logprobs)
    return kept
