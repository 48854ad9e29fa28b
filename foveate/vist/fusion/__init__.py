"""How a decoder reads latents: keys and values in front of its own, or cross-attention."""
