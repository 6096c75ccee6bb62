"""Fabric as data: images read, AITEX and folders of your own, fabric edges, patches (notebook 02)."""
