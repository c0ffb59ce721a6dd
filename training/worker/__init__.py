"""The worker's processes: who claims a job, who trains it, how they end."""
