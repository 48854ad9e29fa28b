"""Training of Vist's parts on accelerate: data, caches, recipes, the loop."""
