"""The Redis adapter: `redis://host`, for several processes and machines."""
