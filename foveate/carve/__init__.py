"""Carve: fewer visual tokens inside an unmodified vision-language model."""

# Whatever of this package is imported first, the built-in methods have their names from then on.
from foveate.carve import methods as methods
from foveate.carve import stack as stack
from foveate.carve import text_share as text_share
from foveate.carve import two_stage as two_stage
