"""The benchmark: ``make bench`` prints what everything costs, by the system's own accounting."""
