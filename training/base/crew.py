"""Who trains together: the processes of one trainer, which hold the same adapters and share out a step's passes.

One process alone is a crew too, and the usual one. Gradients are summed, and words passed, through accelerate. All
that is decided from what the crew was told is decided alike in every process, so that none waits for another in vain.
"""

import logging
import os
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce

from training.errors import LostStep, Stopped

log = logging.getLogger("training.base.crew")
T = TypeVar("T")
R = TypeVar("R")

_PATIENCE = timedelta(days=7)
"""How long a process waits for another: as long as that one lives. Whoever dies is noticed by other means."""


@dataclass(frozen=True)
class Seat:
    """A process's seat in a crew of `size`. `meeting` is a file, not there at first, by which they find each other."""

    rank: int
    size: int
    meeting: Path


class Shards(Protocol):
    """A base of which every process holds a part only: a pass goes through all processes at once, or not at all."""

    def idle_pass(self) -> None:
        """Be there for a pass of another process that keeps no gradients."""

    def keeping_gradients(self) -> AbstractContextManager[None]:
        """Within: gradients that are added up are forgotten at its end."""


@dataclass(frozen=True)
class Call:
    """A loop that all are to run at once, with what it learns; `own` names what each process has of its own."""

    loop: Callable[..., object]
    own: tuple[str, ...]
    lesson: Mapping[str, Any]


@dataclass(frozen=True)
class Failed:
    """The first process could not do what the others waited for."""

    error: Exception


class _Idle:
    """The first process makes a pass of its own on a base in shards."""


class _Done:
    """What the others waited for is done."""


@dataclass
class Crew:
    """This process's side of its crew.

    `spread`, `sum_gradients`, `agreed` and `first` are to be called by all processes at once; `together` and
    `before_pass` are the first one's, and `follow` the others'.
    """

    rank: int = 0
    size: int = 1
    shards: Shards | None = None
    _spreading: bool = field(default=False, init=False)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that talks to the ledger and writes files."""
        return self.rank == 0

    # The steps ---------------------------------------------------------------------------------------------------
    def spread(self, parts: Sequence[T], work: Callable[[T], R], check: Callable[[], None] = lambda: None) -> list[R]:
        """`work` of every part, each done by one process, told to all in the order of the parts.

        Every part has a random state of its own, so that dropout falls alike whoever takes it. `check` comes before
        each. What one process raises, all raise.
        """
        seed = torch.initial_seed()
        self._spreading = True
        try:
            if self.shards is None:
                told = self.agreed(lambda: [self._take(parts, i, work, check, seed) for i in self._own(len(parts))])
            else:
                told = self._in_step(parts, work, check, seed)
        finally:
            self._spreading = False
            torch.manual_seed(seed)
        return [told[place % self.size][place // self.size] for place in range(len(parts))]

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Every process ends with the sum of all gradients; a parameter that nobody has one of keeps none."""
        if self.size == 1:
            return
        own = list(parameters)
        grads = [torch.zeros_like(each) if each.grad is None else each.grad for each in own]
        has = torch.tensor([float(each.grad is not None) for each in own], device=own[0].device)
        summed = reduce(torch.cat([has, *(grad.flatten() for grad in grads)]), "sum")
        touched, pieces = summed[: len(own)], summed[len(own) :].split([each.numel() for each in own])
        for parameter, piece, count in zip(own, pieces, touched.tolist(), strict=True):
            parameter.grad = piece.view_as(parameter).clone() if count else None

    def agreed(self, work: Callable[[], R]) -> list[R]:
        """What `work` gives in each process, by rank. Where it fails in one, all raise what the first of those did."""
        if self.size == 1:
            return [work()]
        mine: R | None = None
        failure: Exception | None = None
        try:
            mine = work()
        except LostStep:
            raise  # the others are in the middle of a pass: no word reaches them
        except Exception as error:  # noqa: BLE001 - the others wait for a word, whatever it is
            log.info("process %d: %r", self.rank, error)
            failure = error
        told: list[tuple[R, Exception | None]] = gather_object([(mine, _portable(failure))])
        try:
            for rank, (_, sent) in enumerate(told):
                if sent is not None:
                    raise failure if failure is not None and rank == self.rank else sent
        finally:
            failure = None  # its traceback holds this frame: with it, what `work` had in memory would never be let go
        return [value for value, _ in told]

    # The first process, and those that follow it -----------------------------------------------------------------
    def together(self, loop: Callable[..., R], own: Mapping[str, object], **lesson: Any) -> R:
        """Run `loop` in all processes at once. Called by the first; the others `follow`, with their own of `own`."""
        self._say(Call(loop, tuple(own), lesson))
        return loop(**own, **lesson)

    def follow(self, own: Mapping[str, object]) -> NoReturn:
        """In all but the first: do what it says, until this process is ended. Raises what the loops do."""
        while True:
            if isinstance(word := self._hear(), Call):
                word.loop(**{name: own[name] for name in word.own}, **word.lesson)

    def first(self, work: Callable[[], None]) -> None:
        """`work` by the first process alone, while the others wait for it. What it raises, all raise."""
        if not self.is_first:
            while not isinstance(self._hear(), _Done):
                pass
            return
        try:
            work()
        except LostStep:
            raise  # as in `agreed`
        except Exception as error:
            self._say(Failed(_portable(error)))
            raise
        self._say(_Done())

    def before_pass(self) -> None:
        """By a base in shards: the first process is about to make a pass that is none of a step's."""
        if self.shards is not None and not self._spreading:
            self._say(_Idle())

    def in_one_piece(self, work: Callable[[], R]) -> R:
        """Passes of the first process that the others lend their shards to. LostStep when they fail."""
        try:
            return work()
        except Stopped:
            raise  # between two passes
        except Exception as error:  # as in a step
            raise self._lost(error) from error

    # Inside ------------------------------------------------------------------------------------------------------
    def _own(self, count: int) -> range:
        return range(self.rank, count, self.size)

    def _take(self, parts: Sequence[T], place: int, work: Callable[[T], R], check: Callable[[], None], seed: int) -> R:
        check()
        torch.manual_seed(seed + 15_485_863 * place)
        return work(parts[place])

    def _in_step(
        self, parts: Sequence[T], work: Callable[[T], R], check: Callable[[], None], seed: int
    ) -> list[list[R]]:
        """Row by row, as many passes at once as there are processes: whoever has none goes through another's."""
        assert self.shards is not None
        done: list[R] = []
        for row in range(0, len(parts), self.size):
            self.agreed(check)
            place = row + self.rank
            try:
                if place < len(parts):
                    done.append(self._take(parts, place, work, lambda: None, seed))
                else:
                    with self.shards.keeping_gradients():
                        self._take(parts, row, work, lambda: None, seed)
            except Exception as error:  # the others wait inside the pass, whatever it is
                raise self._lost(error) from error
        return self.agreed(lambda: done)

    def _lost(self, error: Exception) -> LostStep:
        return LostStep(
            f"process {self.rank + 1} of {self.size} failed in the middle of a pass that all of them make: {error}. "
            "Where memory ran out, lower the recipe's pass_tokens: with training.sharding = base no pass is tried "
            "again in halves"
        )

    def _say(self, word: object) -> None:
        if self.size > 1:
            broadcast_object_list([word])

    def _hear(self) -> object:
        """The next word of the first process; what it says of passes and failures is seen to here."""
        while True:
            heard: list[object] = [None]
            broadcast_object_list(heard)
            if isinstance(heard[0], Failed):
                raise heard[0].error
            if not isinstance(heard[0], _Idle):
                return heard[0]
            assert self.shards is not None
            self.shards.idle_pass()


def join(seat: Seat, device: torch.device) -> Crew:
    """Meet the others, who wait until all are there. Call once in a process, after it has taken its device."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # they are all on this machine
    os.environ.setdefault("NCCL_SOCKET_IFNAME", "lo")
    # What accelerate would else guess, with a warning.
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    for name, value in (("RANK", seat.rank), ("WORLD_SIZE", seat.size)):
        os.environ[name] = os.environ[f"LOCAL_{name}"] = str(value)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{seat.meeting}",
        rank=seat.rank,
        world_size=seat.size,
        timeout=_PATIENCE,
    )
    PartialState(cpu=device.type == "cpu")
    return Crew(seat.rank, seat.size)


def _portable(error: Exception | None) -> Any:
    """The error as it can be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    except Exception:  # noqa: BLE001 - any class may refuse, in ways of its own
        return RuntimeError(repr(error))
    return error
