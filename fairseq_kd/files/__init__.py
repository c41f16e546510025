"""Files that are written whole, locked, hashed and checked, and the names in them."""
