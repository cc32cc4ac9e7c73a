"""Cases of each construction: inputs, and what must be refused."""
