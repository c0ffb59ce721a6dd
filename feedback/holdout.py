"""Which prompts are kept apart: decided by the prompt alone, the same for ever and for every policy."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from feedback.turns import first_user_text

SHARE = 0.2
"""Share of prompts that no policy is trained on."""


def is_held_out(messages: Sequence[Mapping[str, Any]], share: float = SHARE) -> bool:
    """Whether a conversation belongs to the held-out set, by a hash of its first user message.

    Case and spacing are folded, so that a retyped prompt stays on its side.
    """
    folded = " ".join(first_user_text(messages).split()).casefold()
    digest = hashlib.sha256(folded.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
