"""For a start of gunicorn by hand: `gunicorn -c deploy/gunicorn.conf.py wsgi:application`.

`antiphon serve`, which the systemd unit runs, needs no file: it passes the same values.
"""

from app.server.gunicorn_conf import *  # noqa: F403 - gunicorn's settings and hooks; see the reasons there
from app.server.gunicorn_conf import configuration

#: On a reload, the last good settings.
_settings = configuration().settings

#: Has no effect when systemd passes a listening socket.
bind = _settings.bind
workers = _settings.workers
threads = _settings.threads
#: More than the threads, so that waiting clients can connect and idle connections do not exclude others.
worker_connections = _settings.threads + 256
