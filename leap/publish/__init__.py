"""From this tree to the Hub: the folder that is released, what must be true of it, and its upload."""
