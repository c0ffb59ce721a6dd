"""Losses as pure functions of log-probabilities, one file per family."""
