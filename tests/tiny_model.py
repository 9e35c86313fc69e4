"""The tiny model of every end-to-end test; it lies in the package, for authors of extensions."""

from hybrid.testing.tiny import CONFIG, TEXT, WORDS, write_tiny_config, write_tiny_model

__all__ = ["CONFIG", "TEXT", "WORDS", "write_tiny_config", "write_tiny_model"]
