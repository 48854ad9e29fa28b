"""What a stranger may hand us or plant beside us: each with the sentence that refuses it."""
