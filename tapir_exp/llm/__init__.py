"""Chat models: one interface and client, a cache, a ledger of the spend, rate limits, batches and local servers."""
