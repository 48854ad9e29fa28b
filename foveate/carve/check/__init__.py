"""Is a model carved right? A tiny twin of it is held to a slow path written without foveate."""
