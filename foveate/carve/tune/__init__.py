"""The cheapest setting that is proven to lose no more than allowed."""
