"""What may come in: the requests of clients and the rows of the channel table."""
