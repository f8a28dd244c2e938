"""Facts about graphs that several backends need."""
