"""The client of perdure."""
