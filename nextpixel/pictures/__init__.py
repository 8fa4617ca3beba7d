"""Pictures: files to symbols, and symbols to files that people look at."""
