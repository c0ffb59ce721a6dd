"""Everything training can stop for, as one tree. Each message quotes the value and says what to do."""

from collections.abc import Mapping
from typing import Any, ClassVar


class TrainingError(Exception):
    """The root. `retry` says whether another attempt at the same job could end differently."""

    retry: ClassVar[bool] = False


class SettingsRefused(TrainingError):
    """The settings name something that does not exist or cannot work."""


class RecipeRefused(TrainingError):
    """A recipe has an unknown field, a missing one, or a value out of its bounds."""


class ModelRefused(TrainingError):
    """The base model is missing, damaged, or of a shape that training or the engine cannot use."""


class TokenMismatch(TrainingError):
    """The tokens that training makes of a chat are not the engine's: those of a prompt, if nothing else is said.

    `left_out` is the reason that a report gives for an example left out because of it.
    """

    left_out: ClassVar[str] = "prompt tokens differ from the engine's"


class EndMismatch(TokenMismatch):
    """The engine ended an answer with another token than the chat template writes after one."""

    left_out: ClassVar[str] = "end token differs from the engine's"


class PromptRefused(TrainingError):
    """The chat template cannot make a prompt of these messages."""


class TooFew(TrainingError):
    """Too little is left to train on; `report` tells what became of all there was."""

    def __init__(self, message: str, report: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.report = dict(report or {})


class TooFewPairs(TooFew):
    """Too few pairs are left to train on once the held-out and unusable ones are taken away."""


class TooFewThumbs(TooFew):
    """Too few thumbs of one side are left to train on."""


class TooFewDemonstrations(TooFew):
    """Too few demonstrations are left to train on."""


class WrongFirstLoss(TrainingError):
    """The first loss is not ln 2: policy and reference do not start out equal."""


class GivenUp(TrainingError):
    """An earlier attempt had failed for good, and was cut off before it could say so."""


class Diverged(TrainingError):
    """The loss or the gradient is no number any more, or the loss runs away."""


class EngineMismatch(TrainingError):
    """The engine did not answer from the policy that was asked."""


class TooFewPrompts(TrainingError):
    """No prompt is left that the policy could answer and learn from."""


class OutOfMemory(TrainingError):
    """A step does not fit into memory, not even in passes of half the size; or something else does not."""


class LostStep(TrainingError):
    """One of several processes failed where the others cannot be told: all have to end."""


class AdapterDamaged(TrainingError):
    """A published adapter's files are not those its version was named after."""


class RewardRefused(TrainingError):
    """A reward model is missing, of another base, or asked for what its kind cannot tell."""


class GatewayError(TrainingError):
    """The root of what can go wrong with the gateway."""


class GatewayUnavailable(GatewayError):
    """The gateway, or the engine behind it, did not answer in time."""

    retry: ClassVar[bool] = True


class GatewayRefused(GatewayError):
    """The gateway answered, and said no."""


class NotThere(GatewayRefused):
    """The gateway has nothing of that name; for a version: the engine does not have it now.

    Another attempt looks again for what is live, and may be spared the version that went away.
    """

    retry: ClassVar[bool] = True


class Stopped(TrainingError):
    """The worker was asked to stop; the job goes on from its checkpoint elsewhere or later."""

    retry: ClassVar[bool] = True
