"""Exit codes by which a trainer tells its runner how it ended; any other is a crash."""

EXIT_REFUSED = 65
"""It could not go on, and wrote why to `error.json` in the job's folder."""
EXIT_STOPPED = 75
"""It was asked to stop, and left a checkpoint."""
EXIT_LEASE_LOST = 76
"""Another worker holds the job now; nothing is to be written."""
