"""Questions and data sets: what models are asked, from files, from the Hub, or made up."""
