"""What far context costs: raw text, CEPE and Vist in the shape of the Vist paper."""
