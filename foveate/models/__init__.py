"""Everything that touches transformers: the only folder that imports it."""
