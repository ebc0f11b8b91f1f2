"""Tests of the web pages, by HTTP and in a browser."""
