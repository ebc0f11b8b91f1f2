"""The benchmark: `python -m tests.bench --help`.

Everything runs on the loopback, against an upstream of our own (mock.c) and under a load of our own (load.c): a
generator written in Python would be slower than what it measures. Servers are loaded in turn, A B C and then C B A, so
that what else the machine does meets them all; trust the ratios and the CPU time, not the absolute rates.

loads.py holds the loads, rows.py the rows of the report, servers.py the servers, inside.py what is measured
without load, storage.py what stored conversations cost.
"""
