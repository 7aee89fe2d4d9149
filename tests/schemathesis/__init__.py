"""Cases that are drawn from the description of the API, against a region as a process."""
