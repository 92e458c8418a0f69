"""How fast the model is, and how fast its peers are."""
