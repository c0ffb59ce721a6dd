"""Moving policies: an operator's moves, and the canary's verdict."""
