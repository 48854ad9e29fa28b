"""What far context is worth and costs: protocols, arms and models under test."""
