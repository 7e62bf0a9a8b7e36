"""The admin: what can be looked at and done on all nodes, over HTTP and by `aq ws`."""
