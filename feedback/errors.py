"""Everything the ledger can refuse, as one tree. Each message quotes the value and says what to do."""


class FeedbackError(Exception):
    """The root: anything the ledger refuses."""


class LedgerUnavailable(FeedbackError):
    """Redis did not answer. Nothing was recorded as far as the caller may assume; the call may be repeated."""


class UnknownTurn(FeedbackError):
    """No such turn, or one of another tenant or person; the two are not told apart."""


class UnknownEvent(FeedbackError):
    """No such event, or one of another tenant or person."""


class UnknownPolicy(FeedbackError):
    """No policy of that version, or none that this caller may use."""


class UnknownJob(FeedbackError):
    """No job of that id."""


class UnknownKey(FeedbackError):
    """No API key of that id."""


class TenantRefused(FeedbackError):
    """A name that no tenant may have."""


class StatementRefused(FeedbackError):
    """A well-formed statement that makes no sense of these turns (other prompts, an unchanged edit, …)."""


class IdempotencyConflict(FeedbackError):
    """The idempotency key was used before with another body."""


class MoveRefused(FeedbackError):
    """The policy's state does not allow that move."""


class StaleRegistry(FeedbackError):
    """The registry changed since it was read; read it again and decide again."""


class LeaseLost(FeedbackError):
    """The job's lease has passed to another worker; what this one would have written was not."""


class NotEnoughVotes(FeedbackError):
    """Fewer pairs, thumbs or demonstrations than a job of that recipe may start with."""
