"""What the gateway does with a request. Knows no Flask, no requests and no peewee."""
