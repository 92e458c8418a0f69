"""Release on the Hub: the folder, its checks and its upload."""
