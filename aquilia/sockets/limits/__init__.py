"""The limits: of rates, times and numbers, for connections, addresses and identities."""
