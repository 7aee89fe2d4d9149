"""The pure core: CRDTs, lanes, cursors, gossip. No clock, no randomness, no I/O, no async."""
