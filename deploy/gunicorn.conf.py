"""For those who start gunicorn themselves: `gunicorn -c deploy/gunicorn.conf.py wsgi:application`.

`antiphon serve`, which the systemd unit runs, needs no file: it hands over the same values.
"""

from app.serving import *  # noqa: F403 - gunicorn's settings and hooks; the reasons stand there
from app.serving import configuration

#: On a reload the last that were good.
_settings = configuration().settings

#: Without effect when systemd hands over a listening socket.
bind = _settings.bind
workers = _settings.workers
threads = _settings.threads
#: Above the threads, so that clients that wait for one are connected and keep-alive ones do not shut others out.
worker_connections = _settings.threads + 256
