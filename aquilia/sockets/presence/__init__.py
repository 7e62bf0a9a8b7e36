"""Presence: who is in which room, on all nodes, and who is told of it."""
