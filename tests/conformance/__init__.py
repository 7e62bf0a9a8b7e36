"""The Autobahn test suite: see `__main__.py`."""
