"""The coordinator: read, judge, store by compare-and-set, announce. It carries authority and holds none."""
