"""Resumption: sessions that outlive their connections, what was missed, and who may come back to them."""
