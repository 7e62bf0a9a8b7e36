"""The outbox: what waits to be written to clients, in memory and on disk, and its bounds."""
