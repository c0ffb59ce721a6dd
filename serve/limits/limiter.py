"""Who is admitted to the engine: what a key has left, and what this gateway carries at once. Neither costs the refused.

Capacity is asked first, since it is this process's own; then the quota is reserved, and settled when the answer ends.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal

from starlette.types import Message, Send

from feedback.quota import KeyLimits, Reading, Reservation
from serve.access.doors import Caller
from serve.answering.answer import Answer
from serve.errors import ApiError, AtCapacity, TooManyRequests
from serve.limits.quotas import Quotas
from serve.limits.token_bound import most_tokens, prompt_of
from serve.requests.chat_request import Asked

Refusal = Literal["capacity", "requests", "tokens", "too_large"]
Header = tuple[bytes, bytes]
CountTokens = Callable[[Mapping[str, Any]], Awaitable[int]]
"""The engine's count of a prompt's tokens."""


class Limiter:
    """`capacity` is how many choices run at once: the engine computes each choice of n > 1 as a request of its own."""

    def __init__(
        self, quotas: Quotas, count: CountTokens, *, capacity: int, refused: Callable[[Refusal], None]
    ) -> None:
        self.capacity = capacity
        self._count = count
        self.quotas = quotas
        self._refused = refused
        self._in_flight = 0

    @asynccontextmanager
    async def admitted(self, caller: Caller, asked: Asked, context_tokens: int) -> AsyncIterator["Admission"]:
        """For as long as the answer is made. AtCapacity or TooManyRequests when the request has to wait.

        A second answer that a canary asks for beside the caller's own is not theirs to pay.
        """
        self._take(asked.n)
        admission = Admission(self.quotas)
        try:
            if caller.limits.any:
                await self._reserve(admission, caller, asked, context_tokens)
            yield admission
        except Exception as error:
            admission.settle(error)
            raise
        finally:
            admission.settle()
            self._in_flight -= asked.n

    def _take(self, n: int) -> None:
        if self._in_flight + n > self.capacity:
            self._refused("capacity")
            raise AtCapacity(f"{self._in_flight} answers are being written, {self.capacity} are the most at once")
        self._in_flight += n

    async def _reserve(self, admission: "Admission", caller: Caller, asked: Asked, context_tokens: int) -> None:
        limits = caller.limits
        reservation = Reservation(caller.key_id, limits, await self._most_tokens(limits, asked, context_tokens))
        reading = await self.quotas.reserve(reservation)
        if not reading.taken:
            kind, error = refusal(limits, reading, reservation.tokens)
            self._refused(kind)
            raise error
        admission.hold(reservation, limit_headers(limits, reading))

    async def _most_tokens(self, limits: KeyLimits, asked: Asked, context_tokens: int) -> int:
        """What to reserve. Where tokens are not limited none are counted, and there is nothing to settle.

        A prompt whose bytes alone would shut it out for ever is counted by the engine first: few tokens are one byte.
        """
        limit = limits.tokens_per_minute
        if limit is None:
            return 0
        bound = most_tokens(asked, context_tokens)
        prompt = prompt_of(asked)
        if bound <= limit or prompt is None or most_tokens(asked, context_tokens, 1) > limit:
            return bound
        return most_tokens(asked, context_tokens, await self._count(prompt))


class Admission:
    """What an admitted request holds, until that is settled: when the last bytes go out, or when all is over."""

    def __init__(self, quotas: Quotas) -> None:
        self._quotas = quotas
        self._reservation: Reservation | None = None
        self._headers: Sequence[Header] = ()
        self._answer: Answer | None = None

    def hold(self, reservation: Reservation, headers: Sequence[Header]) -> None:
        self._reservation, self._headers = reservation, headers

    def settle(self, failure: Exception | None = None) -> None:
        """Once; later calls change nothing."""
        if self._reservation is not None:
            reservation, self._reservation = self._reservation, None
            used = used_tokens(self._answer, failure, reserved=reservation.tokens)
            self._quotas.settle(reservation, used)

    def telling(self, send: Send, answer: Answer) -> Send:
        """`send` for that answer, which also says what the key has left.

        Settles before the last bytes go out, or the caller's next request could be there first.
        """
        self._answer = answer
        if self._reservation is None:
            return send

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message["headers"], *self._headers]}
            elif not message.get("more_body"):
                self.settle()
            await send(message)

        return tell


def used_tokens(answer: Answer | None, failure: Exception | None, *, reserved: int) -> int | None:
    """What a request is charged at its end; None when it costs nothing at all, not even one request.

    What the engine has computed counts, however the answer ended. A request that the engine refused counts as one
    request of no tokens; one that failed by our fault is given back. Where a caller left before anything was seen, it
    is not known what was computed, and all that was reserved stays charged.
    """
    if answer is not None and (seen := answer.prompt_tokens + answer.completion_tokens):
        return seen if reserved else 0
    if failure is None:
        return reserved
    return 0 if isinstance(failure, ApiError) and failure.status < 500 else None


def refusal(limits: KeyLimits, reading: Reading, asked_tokens: int) -> tuple[Refusal, TooManyRequests]:
    """Which limit stands in the way, in the words that OpenAI uses."""
    headers = {name.decode(): value.decode() for name, value in limit_headers(limits, reading)}
    requests, tokens = limits.requests_per_minute, limits.tokens_per_minute
    if reading.fits_in_s is None:
        return "too_large", TooManyRequests(
            f"Request too large on tokens per minute: Limit {tokens}, Requested {asked_tokens} at most. "
            "Send a shorter prompt, or name a smaller max_tokens or n.",
            kind="tokens",
            headers=headers,
        )
    by_requests = requests is not None and reading.requests >= requests
    kind: Literal["requests", "tokens"] = "requests" if by_requests else "tokens"
    limit, used, asked = (requests, reading.requests, 1) if by_requests else (tokens, reading.tokens, asked_tokens)
    return kind, TooManyRequests(
        f"Rate limit reached on {kind} per minute: Limit {limit}, Used {used}, Requested {asked}. "
        f"Please try again in {span(reading.fits_in_s)}.",
        kind=kind,
        retry_after_s=max(1, -(-int(reading.fits_in_s * 1000) // 1000)),
        headers=headers,
    )


def limit_headers(limits: KeyLimits, reading: Reading) -> Sequence[Header]:
    """OpenAI's: what the limit is, what is left of it, and how long until it is whole again."""
    headers: list[Header] = []
    for kind, limit, used in (
        (b"requests", limits.requests_per_minute, reading.requests),
        (b"tokens", limits.tokens_per_minute, reading.tokens),
    ):
        if limit is not None:
            headers += [
                (b"x-ratelimit-limit-" + kind, b"%d" % limit),
                (b"x-ratelimit-remaining-" + kind, b"%d" % max(0, limit - used)),
                (b"x-ratelimit-reset-" + kind, span(reading.empty_in_s).encode()),
            ]
    return headers


def span(seconds: float) -> str:
    """A time as OpenAI's headers write it: `1m0s`, `12.5s`, `20ms`."""
    ms = round(seconds * 1000)
    if ms < 1000:
        return f"{ms}ms"
    minutes, ms = divmod(ms, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{ms / 1000:g}s"
