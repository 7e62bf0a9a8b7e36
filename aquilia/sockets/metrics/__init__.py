"""The metrics: what is counted, and how Prometheus reads it."""
