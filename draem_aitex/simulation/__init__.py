"""The loom: simulated woven fabric in the layout of AITEX, with exact masks (notebook 02)."""
