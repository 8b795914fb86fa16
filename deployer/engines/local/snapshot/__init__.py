"""Process images: capture, verify, restore."""
