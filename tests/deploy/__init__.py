"""What is in ``deploy/``: that it is well-formed, and that what it names is there."""
