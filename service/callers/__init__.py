"""Callers: who asks, and whether they may.

proxy.py    the address of a client behind proxies
keys.py     API keys
quotas.py   requests per second, for each address and key
cors.py     pages of other origins
"""
