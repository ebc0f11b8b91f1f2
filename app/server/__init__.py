"""gunicorn's settings and worker, the processes beside it, the background worker, the job queue."""
