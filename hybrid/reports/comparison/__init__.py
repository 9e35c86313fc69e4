"""`hybrid compare`: several configs measured side by side, and one report about all of them."""
