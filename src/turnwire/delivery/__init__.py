"""Delivery: couriers that drive surfaces to what turns say, whatever platforms, networks and our own process do."""
