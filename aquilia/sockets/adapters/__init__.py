"""The adapters: brokers and stores, behind the two ports of `base`."""
