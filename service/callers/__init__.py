"""Callers: who asks, and whether they may.

keys.py     API keys
quotas.py   requests per second, for each address and key
cors.py     pages of other origins
"""
