"""The site of the documentation, and whether what its texts tell people to type works."""
