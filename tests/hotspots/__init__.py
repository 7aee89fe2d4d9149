"""Places where a fault makes much happen at once, on real processes."""
