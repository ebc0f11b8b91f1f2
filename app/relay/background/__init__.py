"""Background responses: jobs, the run that makes one, the log of its events."""
