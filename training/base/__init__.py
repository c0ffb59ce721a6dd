"""The frozen base in memory, with the adapters and heads on it."""
