"""The Modal engine: rendered apps, and the client that deploys them."""
