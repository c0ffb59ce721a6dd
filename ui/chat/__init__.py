"""The chat page: conversations, comparing two answers, and saying what one thinks of them."""
