"""Flask's edge: authentication, bodies, error shapes, event streams, WebSockets, the access log."""
