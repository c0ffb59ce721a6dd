"""What a key may use in a minute, and when the engine is full."""
