"""The page's errors, and the plain sentence each is told as."""


class UiError(Exception):
    """Anything the page can tell a person about."""


class GatewayAway(UiError):
    """The gateway or what it needs is not there just now (no connection, 5xx)."""

    def __init__(self, what: str, retry_after_s: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_s = retry_after_s


class GatewayRefused(UiError):
    """The gateway said no (4xx); `status` and `code` are its own."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(f"{status} {code or ''}: {message}")
        self.status = status
        self.code = code
        self.message = message


class AnswerBroken(UiError):
    """An answer ended in an error after it had begun."""


class UnknownVisitor(UiError):
    """The request carries no cookie that this page signed."""


class NotSignedIn(UiError):
    """The browser gave no operator key, or one the gateway no longer takes."""


def sentence(error: UiError) -> str:
    """What a person reads: what happened, and what to do."""
    if isinstance(error, GatewayAway):
        wait = f"about {error.retry_after_s:.0f} seconds" if error.retry_after_s else "a moment"
        return f"That did not work just now: a part of the service is away. Try again in {wait}."
    if isinstance(error, AnswerBroken):
        return "The answer broke off. Try again."
    if isinstance(error, UnknownVisitor):
        return "This browser is not known here. Allow cookies for this page and load it again."
    if isinstance(error, NotSignedIn):
        return "Sign in with an operator key first."
    if isinstance(error, GatewayRefused):
        return _refusal(error)
    return "That did not work. Try again."


def _refusal(error: GatewayRefused) -> str:
    if error.status in (401, 403):
        return "The page may not do that. Its operator should look at the page's key."
    if error.code == "model_not_found":
        return "This page asks for a model that is not served here. Its operator should look at the line's name."
    if error.status == 404:
        return "That is no longer kept, so nothing was recorded."
    if error.status == 413 or error.code == "context_length_exceeded":
        return "This conversation has become too long for the model. Start a new one, or shorten the message."
    if error.status == 429:
        return "Too many requests just now. Wait a little and try again."
    return f"That was refused: {error.message.rstrip('.')}."
