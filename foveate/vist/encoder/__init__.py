"""Frozen encoders of rendered strips: our text encoder, and CLIP- and SigLIP-class towers."""
