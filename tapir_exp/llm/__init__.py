"""Talking to chat models: one interface, one client, a cache, a ledger."""
