"""The ledger: what was answered, what people said of it, which policies exist, which jobs run.

Pure decisions (standing, pairs, holdout, policies, schedule) stand apart from the classes that talk to Redis
(ledger, registry, jobs, access_keys). Reads no environment; imports neither torch nor a web framework.
"""
