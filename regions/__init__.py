"""A region node: storage, links to peers, fan-out, life cycle, command line."""
