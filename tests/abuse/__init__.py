"""Clients that mean harm, against a real `aq serve`: see `__main__.py`."""
