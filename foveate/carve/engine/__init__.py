"""A method on a running model: hooks that decide, narrow, and keep every layer consistent."""
