"""Background responses: the jobs, the run of one response, and the log of its events."""
