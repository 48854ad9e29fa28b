"""What a memory may be beside latents: tokens carved inside the LLM, and its states kept aside."""
