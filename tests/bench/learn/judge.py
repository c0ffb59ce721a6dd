"""What a version answers to the judged questions, and what it is worth: wins, loss per token, KL, length. Resumable."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from feedback.ids import BASE_VERSION, Version
from tests.bench.learn.place import LINE, Place
from tests.bench.learn.tastes import Taste
from tests.bench.learn.user import AT_ONCE, MAX_TOKENS, TEMPERATURE
from tests.demo.figures import wins
from tests.demo.taste import Seen
from training.base.loading import load_chat_tokens
from training.base.model import SharedBase
from training.examples.asked import Prompt
from training.files import read_json, write_json
from training.judging.evaluate import Judge, measure, summarise
from training.sampling.answers import Question, SampleStore
from training.sampling.gateway import Gateway, Patience, Sample, SamplingSettings

ANSWERS = 2
"""To each judged question."""

_WHY = {"reason": "make learn compares every version with the base"}


@dataclass(frozen=True)
class Measured:
    """One version's answers as the user sees them, by question, and their means; nats a token for loss and KL."""

    seen: list[list[Seen]]
    loss_per_token: float
    kl_per_token: float
    tokens: float
    words: float
    repeated: float
    cut_off: float


class Bench:
    """The base that scores, loaded when it is first needed, and where answers are kept."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._gateway = Gateway(place.gateway_url, place.key("worker"), LINE, Patience(check=place.check))
        self._taken: Version | None = None
        self.tokens = load_chat_tokens(place.model)

    @cached_property
    def _model(self) -> SharedBase:
        return SharedBase(self._place.model, torch.device("cpu"))

    def measure_once(self, taste: Taste, n: int, version: Version) -> Measured:
        """Answers of a loaded version to the first `n` judged questions, measured; kept ones are not asked again."""
        folder = self._place.home / "judged" / taste.name
        prompts = [question + taste.suffix for question in taste.judged[:n]]
        asked: list[Prompt] = [({"role": "user", "content": text},) for text in prompts for _ in range(ANSWERS)]
        store = SampleStore(folder, SamplingSettings(TEMPERATURE, MAX_TOKENS, AT_ONCE))
        questions = [Question(prompt, nth % ANSWERS) for nth, prompt in enumerate(asked)]
        samples = store.collect(self._gateway, version, questions, lambda place, sample: self._place.check())
        kept = folder / f"{version}-{n}.json"
        means = read_json(kept)
        if means is None:
            means = self._score(version, asked, samples)
            write_json(kept, means)
        seen = [Seen(sample.text, sample.finish_reason == "stop") for sample in samples]
        return Measured(
            seen=[seen[i : i + ANSWERS] for i in range(0, len(seen), ANSWERS)],
            words=sum(len(each.text.split()) for each in seen) / len(seen),
            **{name: means[name] for name in ("loss_per_token", "kl_per_token", "tokens", "repeated", "cut_off")},
        )

    def make_room(self, version: Version | None) -> None:
        """Take a judged version out of the way of the next ones.

        The gate promotes what has won for sure, and the next cell's job is to be compared with the base too. Of the
        candidates the engine keeps a few, and the newest rejected version only where room is left.
        """
        self.make_base_live()
        if version is not None and self._gateway.get(f"/operator/policies/{version}")["state"] == "candidate":
            self._gateway.post(f"/operator/policies/{version}/withdraw", _WHY)

    def make_base_live(self) -> None:
        while self._gateway.get("/operator/policies")["live"] != BASE_VERSION:
            self._gateway.post("/operator/rollback", _WHY)

    def _score(self, version: Version, asked: Sequence[Prompt], samples: Sequence[Sample]) -> dict[str, Any]:
        judge = Judge(self._model, self.tokens, self._place.check)
        if version == BASE_VERSION:
            return summarise(measure(judge, None, asked, samples))
        self._take(version)
        return summarise(measure(judge, version, asked, samples))

    def _take(self, version: Version) -> None:
        """Load a version in place of the one before; the base cannot be without any adapter once it had one."""
        if self._taken == version:
            return
        self._model.load_adapter(version, self._place.home / "adapters" / version)
        if self._taken is not None:
            self._model.drop_adapter(self._taken)
        self._taken = version


def figures(taste: Taste, new: Measured, base: Measured) -> dict[str, Any]:
    """What a version is worth against the base, for the cell's row."""
    share = wins(new.seen, base.seen, judge=taste.verdict)
    return {
        "wins": round(share.value, 4),
        "wins_low": round(share.low, 4),
        "wins_high": round(share.high, 4),
        "loss_base": round(base.loss_per_token, 4),
        "loss": round(new.loss_per_token, 4),
        "added_loss": round(new.loss_per_token - base.loss_per_token, 4),
        "kl": round(new.kl_per_token, 4),
        **_both("tokens", base.tokens, new.tokens),
        **_both("words", base.words, new.words),
        **_both("repeated", base.repeated, new.repeated),
        **_both("cut_off", base.cut_off, new.cut_off),
        "score_base": round(mean_score(taste, base), 3),
        "score": round(mean_score(taste, new), 3),
    }


def mean_score(taste: Taste, measured: Measured) -> float:
    scores = [taste.score(seen) for answers in measured.seen for seen in answers]
    return sum(scores) / len(scores)


def _both(name: str, base: float, new: float) -> dict[str, float]:
    return {f"{name}_base": round(base, 3), name: round(new, 3)}
