"""One file per packing."""
