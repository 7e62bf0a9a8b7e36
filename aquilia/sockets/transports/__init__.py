"""The transports: what turns bytes on a wire into whole messages, and back."""
