"""What learns: the Celery app and its jobs, from a snapshot of votes to a published and judged adapter."""
