"""What may fail, what is expected then, and which tests show it."""
