"""Plain data in Nova's words: no I/O, imports only errors."""
