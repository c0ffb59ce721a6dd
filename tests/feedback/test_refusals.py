"""What counts as a refusal."""

import pytest

from feedback.refusals import is_refusal


@pytest.mark.parametrize(
    "answer",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, but I can’t assist with this request.",
        "Sorry, I cannot provide medical advice.",
        "As an AI language model, I cannot write that for you.",
        "Unfortunately, I am unable to share this.",
        "I apologize, but as an AI assistant I can't do that.",
        "**I'm not able to discuss this.**",
        "I must decline to answer.",
        "I'm sorry for the trouble, but I won't\ncontinue.",
    ],
)
def test_an_answer_that_begins_by_declining_is_a_refusal(answer: str) -> None:
    assert is_refusal(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I can't wait to tell you about Lisbon!",
        "I can help with that.",
        "I'm sorry to hear about your dog. Grief takes time.",
        "Sorry, here is the corrected list: one, two, three.",
        "You cannot provide a file larger than 2 MB.",
        "The error says: “I'm sorry, but I can't help with that.”",
        "No, whales are mammals.",
        "As an AI, I think about this often.",
        "Here is a letter: I'm sorry, but I can't help you move on Sunday.",
    ],
)
def test_other_answers_are_not(answer: str) -> None:
    assert not is_refusal(answer)
