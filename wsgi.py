"""For those who run gunicorn themselves: `gunicorn -c python:app.server.gunicorn_conf wsgi:application`."""

from app import create_app

application = create_app()
