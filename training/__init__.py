"""Scripts that trained the shipped weights; not part of the wheel."""
