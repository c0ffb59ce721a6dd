"""What a completion request may carry, and what the engine is asked."""
