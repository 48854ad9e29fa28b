"""Episodes: far demonstrations and what is asked of them, to teach a memory the mapping."""
