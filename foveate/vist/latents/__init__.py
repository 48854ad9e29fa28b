"""Patches become latents: resamplers, where latents look, and memories made of them."""
