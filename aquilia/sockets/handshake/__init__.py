"""The handshake: from a request that wants a connection to one that is open, or refused."""
